import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { encodeBody } from "../../src/protocol/body.js";
import { NO_BODY } from "../../src/protocol/codec.js";
import { DEFAULT_LIMITS, type Dispatch, type ToWorker } from "../../src/protocol/messages.js";
import { WorkerCore } from "../../src/worker/core.js";
import type { WorkerSettings } from "../../src/worker/context.js";
import type { Effect, FromExecutor, WorkerEvent } from "../../src/worker/messages.js";

type Sent = Record<string, any>;

/** Feeds a worker's core by hand: plays its broker and its executors. */
class Bench {
  now = 1_000;
  readonly core: WorkerCore;
  effects: Effect[] = [];

  constructor(settings: Partial<WorkerSettings> = {}) {
    const all: WorkerSettings = {
      worker: "w1",
      name: "bench",
      processes: 1,
      slots: { default: 2 },
      profiles: [],
      graceMs: 1_000,
      cancelGraceMs: 1_000,
      stallMs: 60_000,
      startTimeoutMs: 60_000,
      wallOffsetMs: 0,
      ...settings,
    };
    this.core = new WorkerCore(all, () => 0);
  }

  feed(event: WorkerEvent): Effect[] {
    this.effects = this.core.handle(event, this.now);
    return this.effects;
  }

  /** What the last event made it say to the broker. */
  get sent(): Sent[] {
    return this.effects.flatMap((effect) => (effect.type === "to-broker" ? [effect.message as Sent] : []));
  }

  /** What it made it tell executors. */
  get told(): Sent[] {
    return this.effects.flatMap((effect) => (effect.type === "to-executor" ? [effect.message as Sent] : []));
  }

  sentOf(t: string): Sent[] {
    return this.sent.filter((message) => message["t"] === t);
  }

  get started(): string[] {
    return this.effects.flatMap((effect) => (effect.type === "start-executor" ? [effect.executor] : []));
  }

  get killed(): string[] {
    return this.effects.flatMap((effect) => (effect.type === "kill-executor" ? [effect.executor] : []));
  }

  hear(message: ToWorker): this {
    this.feed({ type: "from-broker", message, body: NO_BODY });
    return this;
  }

  executor(executor: string, message: FromExecutor, body: Uint8Array = NO_BODY): this {
    this.feed({ type: "from-executor", executor, message, body });
    return this;
  }

  executorReady(executor: string): this {
    this.feed({ type: "executor-started", executor, pid: 7 });
    return this.executor(executor, { t: "ready", programs: [{ name: "p", revision: "r" }], descriptions: {} });
  }

  welcome(): this {
    const times = { ping_ms: 1_000, dead_ms: 3_000, adopt_ms: 1, orphan_ms: 1, retain_ms: 1 };
    const welcome = { t: "welcome" as const, epoch: "e", session: "s", features: [], ...times, limits: DEFAULT_LIMITS };
    this.feed({ type: "session-up", welcome });
    return this;
  }

  synced(...keep: string[]): this {
    return this.hear({ t: "synced", keep });
  }

  dispatch(lease: string, more: Partial<Dispatch> = {}): this {
    const ids = { lease, ns: "n", job: `job-${lease}`, attempt: 1, digest: "d", program: "p", revision: "r" };
    return this.hear({ t: "dispatch", ...ids, timeout_ms: 60_000, lane: "default", want: [], isolate: false, defined: false, ...more });
  }

  running(executor: string, lease: string): this {
    return this.executor(executor, { t: "started", lease, attempt: 1, revision: "r", worker: executor });
  }

  result(executor: string, lease: string, body: Uint8Array = NO_BODY): this {
    return this.executor(executor, { t: "result", lease, attempt: 1, code: "OK", retryable: false, chunks: 0 }, body);
  }

  pass(ms: number): Sent[] {
    const end = this.now + ms;
    const sent: Sent[] = [];
    const all: Effect[] = [];
    for (let at = this.core.wakeAtMs(); at !== undefined && at <= end; at = this.core.wakeAtMs()) {
      this.now = Math.max(this.now, at);
      this.feed({ type: "tick" });
      sent.push(...this.sent);
      all.push(...this.effects);
      this.now += 1;
    }
    this.now = end;
    this.effects = all;
    return sent;
  }
}

function serving(settings: Partial<WorkerSettings> = {}): Bench {
  const bench = new Bench(settings);
  bench.feed({ type: "start" });
  bench.executorReady("bench/1").welcome().synced();
  return bench;
}

describe("sessions", () => {
  test("nothing is said before programs are loaded, then ready with held", () => {
    const bench = new Bench();
    bench.feed({ type: "start" });
    assert.deepEqual(bench.started, ["bench/1"]);
    bench.welcome();
    assert.deepEqual(bench.sent, []);
    bench.executorReady("bench/1");
    assert.deepEqual(bench.sent, [
      {
        t: "ready",
        worker: "w1",
        slots: { default: 2 },
        programs: [{ name: "p", revision: "r" }],
        profiles: [],
        held: [],
        more: false,
      },
    ]);
  });

  test("a dispatch before the last synced is dropped, and so is one after a stop of its own", () => {
    const bench = serving();
    bench.welcome().dispatch("a");
    assert.deepEqual(bench.told, []);
    bench.synced();
    bench.feed({ type: "own-stall" });
    bench.dispatch("b");
    assert.deepEqual(bench.told, []);
    bench.welcome();
    assert.deepEqual(bench.sentOf("ready")[0]?.["held"], []);
  });

  test("what is held is reported in pages of 200, each after the synced of the one before", () => {
    const bench = serving({ slots: { default: 450 } });
    const ids = Array.from({ length: 450 }, (_, n) => `lease-${n}`);
    for (const id of ids) bench.dispatch(id);
    bench.result("bench/1", "lease-0").welcome();
    const pages: Sent[] = [];
    for (let ready = bench.sentOf("ready")[0]; ready !== undefined; ready = bench.sentOf("ready")[0]) {
      pages.push(ready);
      assert.equal(bench.sent.length, 1);
      bench.synced(...ready["held"].map((held: Sent) => held["lease"]));
      if (!ready["more"]) break;
    }
    assert.deepEqual(
      pages.map((page) => page["held"].length),
      [200, 200, 50],
    );
    assert.equal(pages[0]?.["held"][0].state, "done");
    // Only now the result goes out.
    assert.equal(bench.sentOf("result").length, 1);
  });

  test("pages keep within max_header_bytes", () => {
    const bench = serving({ slots: { default: 100 } });
    for (let n = 0; n < 100; n += 1) bench.dispatch(`l-${n}`, { job: "j".repeat(60), digest: "d".repeat(600) });
    const limits = { ...DEFAULT_LIMITS, max_header_bytes: 8_192 };
    const times = { ping_ms: 1_000, dead_ms: 3_000, adopt_ms: 1, orphan_ms: 1, retain_ms: 1 };
    bench.feed({
      type: "session-up",
      welcome: { t: "welcome", epoch: "e", session: "s", features: [], ...times, limits },
    });
    const [ready] = bench.sentOf("ready");
    assert.ok(ready?.["more"]);
    assert.ok(encodeBody(ready ?? {}).length <= 8_192);
  });

  test("what keep leaves out is stopped and forgotten, and nothing is sent about it", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a").dispatch("b").result("bench/1", "b").welcome().synced();
    assert.deepEqual(bench.told, [{ t: "cancel", lease: "a", cause: "fenced", grace_ms: 1_000 }]);
    assert.deepEqual(bench.sentOf("result"), []);
    // Its slot is not offered before it has really ended.
    assert.deepEqual(bench.sentOf("ready")[0]?.["slots"], { default: 1 });
    bench.result("bench/1", "a");
    assert.deepEqual(bench.sentOf("result"), []);
    assert.deepEqual(bench.sentOf("ready")[0]?.["slots"], { default: 2 });
  });

  test("a fenced lease is not reported to another broker (R-7.8)", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a");
    bench.hear({ t: "cancel", lease: "a", cause: "fenced", grace_ms: 0 }).welcome();
    assert.deepEqual(bench.sentOf("ready")[0]?.["held"], []);
  });

  test("kept streams begin anew: started again, attach to the program, old chunks are not sent", () => {
    const bench = serving();
    bench.dispatch("a", { want: ["started", "chunks"] }).running("bench/1", "a");
    bench.executor("bench/1", { t: "chunk", lease: "a", attempt: 1, seq: 0, reset: false });
    assert.equal(bench.sentOf("chunk").length, 1);
    bench.welcome();
    assert.equal(bench.sentOf("ready")[0]?.["held"][0].seq, 1);
    bench.synced("a");
    assert.equal(bench.sentOf("started").length, 1);
    assert.deepEqual(
      bench.told.map((message) => message["t"]),
      ["attach"],
    );
    bench.executor("bench/1", { t: "chunk", lease: "a", attempt: 1, seq: 1, reset: false });
    assert.deepEqual(bench.sent, []);
    bench.executor("bench/1", { t: "chunk", lease: "a", attempt: 1, seq: 2, reset: true });
    assert.equal(bench.sentOf("chunk").length, 1);
  });
});

describe("leases", () => {
  test("a dispatch without a slot is given back unstarted, and confirmed by a pong", () => {
    const bench = serving();
    bench.dispatch("a").dispatch("b").dispatch("c");
    const [released, ping] = bench.sent;
    assert.deepEqual(released, { t: "released", lease: "c", started: false, cause: "capacity", blame: "none" });
    assert.equal(ping?.["t"], "ping");
    assert.equal(bench.core.busy, true);
    bench.welcome();
    assert.equal(bench.sentOf("ready")[0]?.["held"].length, 3);
    bench.synced("a", "b", "c");
    const again = bench.sentOf("ping")[0];
    bench.hear({ t: "pong", n: again?.["n"] }).welcome();
    assert.equal(bench.sentOf("ready")[0]?.["held"].length, 2);
  });

  test("the same dispatch twice is one", () => {
    const bench = serving();
    bench.dispatch("a").dispatch("a");
    assert.deepEqual(bench.told, []);
  });

  test("a result is kept until it is acknowledged", () => {
    const bench = serving();
    bench.dispatch("a").result("bench/1", "a");
    assert.equal(bench.sentOf("result").length, 1);
    bench.welcome().synced("a");
    assert.equal(bench.sentOf("result").length, 1);
    bench.hear({ t: "ack", leases: ["a"] });
    assert.equal(bench.core.busy, false);
  });

  test("a result that is too large, here or for the broker, arrives in some form", () => {
    const bench = serving();
    bench.dispatch("a").result("bench/1", "a", new Uint8Array(DEFAULT_LIMITS.max_body_bytes + 1));
    assert.equal(bench.sentOf("result")[0]?.["reason"], "result_too_large");
    assert.equal(bench.sentOf("result")[0]?.["details"].max_body_bytes, DEFAULT_LIMITS.max_body_bytes);
    const refusal = { t: "error" as const, code: "RESOURCE_EXHAUSTED", message: "", retryable: false };
    bench.dispatch("b").result("bench/1", "b");
    bench.hear({ ...refusal, reason: "body_too_large", lease: "b" });
    assert.equal(bench.sentOf("result")[0]?.["reason"], "result_too_large");
    bench.hear({ ...refusal, reason: "bad_header", lease: "b" });
    assert.deepEqual(bench.sent, []);
  });

  test("the worker keeps time itself", () => {
    const bench = serving();
    bench.dispatch("a", { timeout_ms: 300 }).running("bench/1", "a");
    bench.pass(400);
    assert.deepEqual(bench.told, [{ t: "cancel", lease: "a", cause: "deadline", grace_ms: 1_000 }]);
  });

  test("want decides what is sent", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a");
    assert.deepEqual(bench.sent, []);
    bench.executor("bench/1", { t: "progress", lease: "a", attempt: 1, done: 1 });
    assert.deepEqual(bench.sent, []);
    bench.hear({ t: "attach", lease: "a", want: ["started", "progress"] });
    assert.deepEqual(
      bench.sent.map((message) => message["t"]),
      ["started"],
    );
    bench.executor("bench/1", { t: "progress", lease: "a", attempt: 1, done: 1 });
    assert.deepEqual(
      bench.sent.map((message) => message["t"]),
      ["progress"],
    );
  });

  test("chunks that the socket does not take are not sent; the stream begins anew when it does", () => {
    const bench = serving();
    bench.dispatch("a", { want: ["chunks"] }).running("bench/1", "a");
    bench.feed({ type: "congested", blocked: true });
    bench.executor("bench/1", { t: "chunk", lease: "a", attempt: 1, seq: 0, reset: false });
    assert.deepEqual(bench.sent, []);
    bench.feed({ type: "congested", blocked: false });
    assert.deepEqual(
      bench.told.map((message) => message["t"]),
      ["attach"],
    );
  });
});

describe("processes that end", () => {
  test("alone: it is to blame; slots go before released, and come back with another process", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a");
    bench.feed({ type: "executor-gone", executor: "bench/1", exit: "7" });
    assert.deepEqual(bench.started, ["bench/2"]);
    const [ready, released] = bench.sent;
    assert.deepEqual(ready?.["slots"], { default: 0 });
    assert.deepEqual([released?.["started"], released?.["cause"], released?.["blame"]], [true, "crash", "self"]);
    bench.executorReady("bench/2");
    assert.deepEqual(bench.sentOf("ready")[0]?.["slots"], { default: 2 });
  });

  test("with others: nobody knows which; what had not started is not to blame", () => {
    const bench = serving({ slots: { default: 3 } });
    bench.dispatch("a").running("bench/1", "a").dispatch("b").running("bench/1", "b").dispatch("c");
    bench.feed({ type: "executor-gone", executor: "bench/1", exit: "SIGSEGV" });
    const blames = bench.sentOf("released").map((message) => [message["lease"], message["started"], message["blame"]]);
    assert.deepEqual(blames, [
      ["a", true, "shared"],
      ["b", true, "shared"],
      ["c", false, "none"],
    ]);
  });

  test("a result that was finished counts", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a").result("bench/1", "a");
    bench.feed({ type: "executor-gone", executor: "bench/1", exit: "7" });
    assert.deepEqual(bench.sentOf("released"), []);
  });

  test("an ignored cancel costs the process, when its other jobs are over; the evidence tells who", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a").dispatch("b").running("bench/1", "b");
    bench.hear({ t: "cancel", lease: "a", cause: "cancel", grace_ms: 1_000 });
    bench.now += 500;
    bench.executor("bench/1", { t: "beat" });
    bench.pass(1_000);
    assert.deepEqual(bench.started, ["bench/2"]);
    assert.deepEqual(bench.killed, []);
    bench.result("bench/1", "b");
    assert.deepEqual(bench.killed, ["bench/1"]);
    bench.feed({ type: "executor-gone", executor: "bench/1", exit: "SIGKILL" });
    const [released] = bench.sentOf("released");
    assert.deepEqual([released?.["cause"], released?.["blame"]], ["stall", "self"]);
  });

  test("processes that end before they are ready are started with pauses", () => {
    const bench = new Bench();
    bench.feed({ type: "start" });
    bench.feed({ type: "executor-gone", executor: "bench/1", exit: "1" });
    assert.deepEqual(bench.started, []);
    bench.pass(200);
    assert.deepEqual(bench.started, ["bench/2"]);
  });

  test("programs that cannot be loaded end the worker, if they never could", () => {
    const bench = new Bench();
    bench.feed({ type: "start" });
    bench.executor("bench/1", { t: "failed", message: "SyntaxError" });
    assert.ok(bench.effects.some((effect) => effect.type === "exit" && !effect.isClean));
    const other = serving();
    other.executor("bench/1", { t: "failed", message: "SyntaxError" });
    assert.ok(!other.effects.some((effect) => effect.type === "exit"));
  });

  test("a silent process gets no jobs until it is heard again", () => {
    const bench = serving({ stallMs: 1_000 });
    bench.dispatch("a");
    bench.pass(1_500);
    bench.feed({ type: "tick" });
    bench.dispatch("b");
    assert.equal(bench.sentOf("released")[0]?.["cause"], "capacity");
    bench.executor("bench/1", { t: "beat" });
    bench.pass(200);
    bench.dispatch("c");
    assert.equal(bench.told[0]?.["lease"], "c");
  });
});

describe("isolate", () => {
  test("runs in a process of its own, which ends after it", () => {
    const bench = serving();
    bench.dispatch("a", { isolate: true });
    assert.deepEqual(bench.started, ["bench/2"]);
    assert.deepEqual(bench.told, []);
    bench.executorReady("bench/2");
    assert.deepEqual(
      bench.told.map((message) => message["t"]),
      ["dispatch"],
    );
    bench.running("bench/2", "a").result("bench/2", "a");
    assert.deepEqual(bench.told, [{ t: "bye", reason: "done" }]);
    bench.feed({ type: "executor-gone", executor: "bench/2", exit: "0" });
    assert.deepEqual(bench.started, []);
  });

  test("while it waits it can be cancelled", () => {
    const bench = serving();
    bench.dispatch("a", { isolate: true }).hear({ t: "cancel", lease: "a", cause: "cancel", grace_ms: 1_000 });
    assert.equal(bench.sentOf("result")[0]?.["code"], "CANCELLED");
    bench.executorReady("bench/2");
    assert.deepEqual(
      bench.told.map((message) => message["t"]),
      ["bye"],
    );
  });

  test("in the worker's own process it waits until it is alone, and the others wait for it", () => {
    const bench = serving({ processes: 0, slots: { default: 3 } });
    bench.dispatch("a").running("bench/1", "a").dispatch("b", { isolate: true }).dispatch("c");
    assert.deepEqual(bench.told, []);
    bench.result("bench/1", "a");
    assert.deepEqual(
      bench.told.map((message) => message["lease"]),
      ["b"],
    );
    bench.running("bench/1", "b").dispatch("d");
    assert.deepEqual(bench.told, []);
    bench.result("bench/1", "b");
    assert.deepEqual(
      bench.told.map((message) => message["lease"]),
      ["c", "d"],
    );
  });
});

describe("drain", () => {
  test("of the broker: what runs may end, the rest is given back, and the worker stays", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a").hear({ t: "drain", grace_ms: 500 });
    assert.deepEqual(bench.sent, []);
    bench.pass(600);
    assert.deepEqual(bench.killed, ["bench/1"]);
    bench.feed({ type: "executor-gone", executor: "bench/1", exit: "SIGKILL" });
    const [released] = bench.sentOf("released");
    assert.deepEqual([released?.["cause"], released?.["blame"]], ["drain", "none"]);
    assert.deepEqual(bench.started, []);
    assert.ok(!bench.effects.some((effect) => effect.type === "exit"));
  });

  test("a dispatch ends it", () => {
    const bench = serving();
    bench.hear({ t: "drain", grace_ms: 500 }).dispatch("a").running("bench/1", "a");
    bench.pass(1_000);
    assert.deepEqual(bench.killed, []);
  });

  test("at the end of the worker: no slots, then what is done is acknowledged, then bye", () => {
    const bench = serving();
    bench.dispatch("a").running("bench/1", "a");
    bench.feed({ type: "shutdown" });
    assert.deepEqual(bench.sentOf("ready")[0]?.["slots"], { default: 0 });
    bench.dispatch("late");
    assert.deepEqual(bench.sentOf("released")[0]?.["cause"], "drain");
    bench.result("bench/1", "a").hear({ t: "ack", leases: ["a"] });
    for (let n = 1; n < 9; n += 1) {
      bench.hear({ t: "pong", n });
      if (bench.effects.some((effect) => effect.type === "exit")) break;
    }
    assert.ok(bench.effects.some((effect) => effect.type === "exit" && effect.isClean));
    assert.equal(bench.sent.at(-1)?.["t"], "bye");
  });

  test("in the worker's own process what ignores it is given back all the same, and keeps its slot", () => {
    const bench = serving({ processes: 0 });
    bench.dispatch("a").running("bench/1", "a").hear({ t: "drain", grace_ms: 500 });
    const sent = bench.pass(600);
    assert.deepEqual(sent.map((message) => message["t"]).slice(0, 2), ["ready", "released"]);
    assert.deepEqual(sent[0]?.["slots"], { default: 1 });
    bench.result("bench/1", "a");
    assert.deepEqual(bench.sentOf("result"), []);
    bench.pass(200);
    assert.deepEqual(bench.core.busy, true);
  });
});
