import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Prediction } from "../../src/client/prediction.js";
import { Cancelled, DeadlineExceeded, BrokerUnreachable, DspymqError, FailedPrecondition } from "../../src/errors.js";
import type { Output } from "../../src/client/events.js";
import type { ToClient } from "../../src/protocol/messages.js";
import { NO_BODY } from "../../src/protocol/codec.js";
import { Bench, messages } from "../bench.js";

const NO_SESSION: ToClient = {
  t: "error",
  code: "FAILED_PRECONDITION",
  reason: "no_session",
  message: "",
  retryable: true,
};

function live(): Bench {
  const bench = new Bench();
  bench.open("j1");
  bench.welcome();
  return bench;
}

function texts(outputs: Output[]): string[] {
  return outputs.flatMap((output) =>
    output.type === "text" ? output.chunks.map((chunk) => (chunk.reset ? "!" : "") + chunk.text) : [],
  );
}

function chunk(
  seq: number,
  text: string,
  more: { attempt?: number; reset?: boolean } = {},
): [ToClient, { fields: { a: string } }] {
  const { attempt = 1, reset = false } = more;
  return [{ t: "chunk", job: "j1", attempt, seq, reset }, { fields: { a: text } }];
}

describe("sessions", () => {
  test("hello comes first, and nothing else before welcome", () => {
    const bench = new Bench();
    const outputs = bench.feed({ type: "subscribe", key: "k", kinds: [] });
    assert.deepEqual(
      outputs.map((output) => output.type),
      ["connect", "send"],
    );
    assert.deepEqual(bench.open("j1"), []);
    assert.deepEqual(
      bench.welcome().map((message) => message["t"]),
      ["submit", "request"],
    );
  });

  test("without work nobody connects", () => {
    const bench = new Bench();
    assert.equal(bench.core.wakeAtMs(), undefined);
    assert.equal(bench.core.session.state, "idle");
  });

  test("a storm of no_session costs one hello, then the open jobs go again", () => {
    const bench = live();
    bench.result("other");
    assert.deepEqual(
      messages(bench.hear(NO_SESSION)).map((message) => message["t"]),
      ["hello"],
    );
    assert.deepEqual(messages(bench.hear(NO_SESSION)), []);
    const [submit] = bench.welcome("e1", "s2");
    assert.equal(submit?.["known_epoch"], "e1");
  });

  test("a broker that greets and forgets is left, with backoff", () => {
    const bench = live();
    const outputs = bench.hear(NO_SESSION);
    assert.deepEqual(
      outputs.map((output) => output.type),
      ["session-down", "disconnect"],
    );
    assert.equal(bench.core.session.state, "waiting");
  });

  test("addresses are tried in their order, each for a bounded time, with a growing pause between passes", () => {
    const bench = new Bench(["tcp://a:1", "tcp://b:2"]);
    bench.open("j1", { timeoutMs: 600_000 });
    const tried = [1_000];
    for (let n = 0; n < 8; n += 1) {
      const connects = bench.pass(20_000 - 1).filter((output) => output.type === "connect");
      tried.push(connects.length);
    }
    // 5 s for each address and at most 1 s between: never fewer than three attempts in 20 s.
    assert.ok(
      tried.slice(1).every((count) => count >= 3),
      String(tried),
    );
    const [, second] = new Bench(["tcp://a:1", "tcp://b:2"]).feed({ type: "subscribe", key: "k", kinds: [] });
    assert.equal(second?.type, "send");
  });

  test("silence of dead_ms ends a session; whoever is only told things pings by itself", () => {
    const bench = live();
    const kinds = messages(bench.pass(29_000)).map((message) => message["t"]);
    assert.deepEqual(kinds, ["ping", "ping"]);
    const outputs = bench.pass(2_000);
    assert.ok(outputs.some((output) => output.type === "session-down"));
    assert.ok(outputs.some((output) => output.type === "connect"));
  });

  test("after a stop of one's own the broker's silence proves nothing yet", () => {
    const bench = live();
    bench.now += 40_000;
    const late = bench.feed({ type: "tick" });
    assert.ok(!late.some((output) => output.type === "session-down"));
    bench.hear({ t: "pong", n: 0 });
    assert.ok(!bench.pass(5_000).some((output) => output.type === "session-down"));
  });

  test("refused at every door, calls fail with what was said", () => {
    const bench = new Bench();
    bench.open("j1");
    bench.hear({ t: "error", code: "UNAUTHENTICATED", reason: "bad_token", message: "", retryable: false });
    assert.equal((bench.outcomes.get("j1") as DspymqError).reason, "bad_token");
    assert.equal(bench.core.session.state, "idle");
  });

  test("close says bye and ends what is open", () => {
    const bench = live();
    assert.deepEqual(
      messages(bench.feed({ type: "close" })).map((message) => message["t"]),
      ["bye"],
    );
    assert.ok(bench.outcomes.get("j1") instanceof Cancelled);
    bench.open("j2");
    assert.ok(bench.outcomes.get("j2") instanceof Cancelled);
    assert.equal(bench.core.wakeAtMs(), undefined);
  });

  test("no broker within connectTimeoutMs", () => {
    const bench = new Bench(["tcp://a:1"], 3_000);
    bench.open("j1");
    bench.pass(3_500);
    assert.ok(bench.outcomes.get("j1") instanceof BrokerUnreachable);
  });
});

describe("jobs", () => {
  test("known_epoch: absent at first, then the last other epoch, else the present one (R-8.3)", () => {
    const bench = new Bench();
    bench.open("j1");
    const epochs = [bench.welcome("A", "s1")[0]?.["known_epoch"]];
    for (const [epoch, session] of [
      ["A", "s2"],
      ["B", "s3"],
      ["B", "s4"],
      ["A", "s5"],
    ] as const) {
      bench.lose();
      epochs.push(bench.welcome(epoch, session)[0]?.["known_epoch"]);
    }
    assert.deepEqual(epochs, [undefined, "A", "A", "A", "B"]);
  });

  test("what is resumed says that it does not know", () => {
    const bench = new Bench();
    bench.open("j1", { resume: true });
    assert.equal(bench.welcome()[0]?.["known_epoch"], "unknown");
  });

  test("sent again with what is left of its time", () => {
    const bench = live();
    bench.now += 10_000;
    bench.lose();
    const [submit] = bench.welcome("e1", "s2");
    assert.equal(submit?.["timeout_ms"], 61_000 - bench.now);
  });

  test("a refusal that is retryable is tried again, not before it may, and counts as never sent", () => {
    const bench = live();
    bench.refuse("j1", "queue_full", true, 1_000);
    assert.deepEqual(messages(bench.pass(999)), []);
    const [submit] = messages(bench.pass(1));
    assert.equal(submit?.["t"], "submit");
    assert.equal(submit?.["known_epoch"], undefined);
    assert.equal(bench.outcomes.size, 0);
  });

  test("a refusal that would outlast the deadline ends the job, as does no_worker", () => {
    const bench = live();
    bench.refuse("j1", "queue_full", true, 70_000);
    assert.equal((bench.outcomes.get("j1") as DspymqError).reason, "queue_full");
    bench.open("j2");
    bench.refuse("j2", "no_worker", true);
    assert.equal((bench.outcomes.get("j2") as DspymqError).reason, "no_worker");
  });

  test("results are acknowledged in batches, wanted or not", () => {
    const bench = live();
    bench.result("j1");
    bench.result("nobody's");
    assert.ok(bench.outcomes.get("j1") instanceof Prediction);
    assert.deepEqual(messages(bench.pass(20)), [{ t: "ack", jobs: ["j1", "nobody's"] }]);
  });

  test("256 results are acknowledged at once", () => {
    const bench = live();
    const sent = Array.from({ length: 256 }, (_, n) => messages(bench.result(`x${n}`))).flat();
    assert.equal(sent.length, 1);
    assert.equal(sent[0]?.["jobs"].length, 256);
  });

  test("acks of an earlier epoch are dropped, those of the same one are not", () => {
    for (const [epoch, acks] of [
      ["e2", 0],
      ["e1", 1],
    ] as const) {
      const bench = live();
      bench.open("j2");
      bench.result("j1");
      bench.lose();
      const sent = bench.welcome(epoch, "s2").filter((message) => message["t"] === "ack");
      assert.equal(sent.length, acks);
    }
  });

  test("superseded is final", () => {
    const bench = live();
    const error = {
      t: "error" as const,
      code: "ABORTED",
      reason: "superseded",
      message: "",
      retryable: false,
      job: "j1",
    };
    bench.hear(error);
    assert.equal((bench.outcomes.get("j1") as DspymqError).reason, "superseded");
    bench.feed({ type: "link-down", reason: "test" });
    assert.deepEqual(bench.pass(10_000), []);
  });

  test("cancel before it was sent ends at once; after that it is the broker's to answer", () => {
    const bench = new Bench();
    bench.open("j1");
    bench.feed({ type: "cancel", job: "j1" });
    assert.ok(bench.outcomes.get("j1") instanceof Cancelled);
    const other = live();
    assert.deepEqual(other.sends({ type: "cancel", job: "j1" }), [{ t: "cancel", job: "j1" }]);
    assert.deepEqual(other.sends({ type: "cancel", job: "j1" }), []);
    other.result("j1");
    assert.ok(other.outcomes.get("j1") instanceof Prediction);
  });

  test("a cancel goes again with the job, and ends it here if nobody confirms it", () => {
    const bench = live();
    bench.feed({ type: "cancel", job: "j1" });
    bench.lose();
    assert.deepEqual(
      bench.welcome("e1", "s2").map((message) => message["t"]),
      ["submit", "cancel"],
    );
    bench.pass(20_000);
    assert.ok(bench.outcomes.get("j1") instanceof Cancelled);
  });

  test("the broker's answer after the deadline is waited for a little", () => {
    const overdue = (): Bench => {
      const bench = live();
      bench.open("j2", { timeoutMs: 5_000 });
      bench.pass(5_500);
      return bench;
    };
    const bench = overdue();
    assert.equal(bench.outcomes.size, 0);
    bench.result("j2", { code: "DEADLINE_EXCEEDED", reason: "deadline", usage: { calls: 3, models: {} } });
    const error = bench.outcomes.get("j2") as DspymqError;
    assert.ok(error instanceof DeadlineExceeded);
    assert.equal(error.usage?.calls, 3);
    const silent = overdue();
    const sent = messages(silent.pass(7_000)).map((message) => message["t"]);
    assert.ok(sent.includes("cancel"));
    assert.ok(silent.outcomes.get("j2") instanceof DeadlineExceeded);
  });

  test("a result whose body cannot be read is an error of this job alone", () => {
    const bench = live();
    bench.hear(
      { t: "result", job: "j1", attempt: 1, code: "OK", retryable: false, chunks: 0 },
      Buffer.from("c1", "hex"),
    );
    assert.equal((bench.outcomes.get("j1") as DspymqError).reason, "invalid_body");
  });

  test("codes that nobody knows are UNKNOWN, reasons stay", () => {
    const bench = live();
    bench.result("j1", { code: "LATER", reason: "later", retryable: true });
    const error = bench.outcomes.get("j1") as DspymqError;
    assert.deepEqual([error.code, error.reason, error.retryable], ["UNKNOWN", "later", true]);
  });

  test("each code has its class", () => {
    const bench = live();
    bench.result("j1", { code: "FAILED_PRECONDITION", reason: "lm_auth" });
    assert.ok(bench.outcomes.get("j1") instanceof FailedPrecondition);
  });
});

describe("streams", () => {
  function streaming(window?: number): Bench {
    const bench = new Bench();
    bench.open("j1", window === undefined ? { want: ["chunks"] } : { want: ["chunks"], window });
    bench.welcome();
    return bench;
  }

  test("duplicates and smaller attempts are dropped, a greater attempt voids, a reset replaces", () => {
    const bench = streaming();
    const shown = [
      chunk(0, "a"),
      chunk(1, "b"),
      chunk(1, "b"),
      chunk(0, "x", { attempt: 2, reset: true }),
      chunk(2, "late"),
      chunk(1, "y", { attempt: 2 }),
      chunk(2, "z", { attempt: 2, reset: true }),
    ].flatMap(([message, body]) => texts(bench.hear(message, body)));
    assert.deepEqual(shown, ["a", "b", "!x", "y", "!z"]);
  });

  test("a gap is mended by the outputs", () => {
    const bench = new Bench();
    bench.open("j1", { want: ["chunks"] });
    bench.welcome();
    bench.hear(...chunk(0, "4"));
    bench.hear(...chunk(2, "!"));
    const fields = { t: "result" as const, job: "j1", attempt: 1, code: "OK", retryable: false, chunks: 3 };
    assert.deepEqual(texts(bench.hear(fields, { outputs: { a: "42!" } })), ["!42!"]);
  });

  test("text of another attempt than that of the result is replaced", () => {
    const bench = streaming();
    bench.hear(...chunk(0, "old"));
    const fields = { t: "result" as const, job: "j1", attempt: 2, code: "OK", retryable: false, chunks: 0 };
    assert.deepEqual(texts(bench.hear(fields, { outputs: { a: "new" } })), ["!new"]);
  });

  test("after joining again, chunks that were under way are not shown twice", () => {
    const bench = streaming();
    bench.hear(...chunk(0, "a"));
    bench.lose();
    bench.welcome("e1", "s2");
    assert.deepEqual(texts(bench.hear(...chunk(3, "lost in between"))), []);
    assert.deepEqual(texts(bench.hear(...chunk(4, "abcd", { reset: true }))), ["!abcd"]);
  });

  test("a broker that lost everything counts attempts from the start", () => {
    const bench = streaming();
    bench.hear(...chunk(5, "of attempt 2", { attempt: 2, reset: true }));
    bench.lose();
    bench.welcome("e2", "s2");
    assert.deepEqual(texts(bench.hear(...chunk(0, "anew", { attempt: 1 }))), ["!anew"]);
  });

  test("credit is absolute, and follows what was read", () => {
    const bench = streaming(4);
    for (let seq = 0; seq < 4; seq += 1) bench.hear(...chunk(seq, "x"));
    const read = (seq: number): Record<string, any>[] => bench.sends({ type: "read", job: "j1", attempt: 1, seq });
    assert.deepEqual(read(0), []);
    assert.deepEqual(read(1), [{ t: "credit", job: "j1", attempt: 1, upto: 6 }]);
    assert.deepEqual(read(1), []);
    assert.deepEqual(read(3), [{ t: "credit", job: "j1", attempt: 1, upto: 8 }]);
    bench.hear(...chunk(0, "x", { attempt: 2, reset: true }));
    assert.deepEqual(read(3), []);
  });
});

describe("tools", () => {
  function call(n: number, attempt = 1, name = "add"): ToClient {
    return { t: "tool_call", job: "j1", attempt, call: n, name, timeout_ms: 1_000 };
  }

  function offering(): Bench {
    const bench = new Bench();
    bench.open("j1", { want: ["tools"] });
    bench.welcome();
    return bench;
  }

  const runs = (outputs: Output[]): number[] =>
    outputs.flatMap((output) => (output.type === "tool-called" ? [output.run] : []));

  test("a call is run once and answered as often as it comes", () => {
    const bench = offering();
    assert.deepEqual(runs(bench.hear(call(0))), [1]);
    assert.deepEqual(runs(bench.hear(call(0))), []);
    const answer = { code: "OK", body: NO_BODY };
    const sent = bench.sends({ type: "answer-tool", job: "j1", run: 1, answer });
    assert.equal(sent[0]?.["t"], "tool_result");
    assert.deepEqual(messages(bench.hear(call(0))), sent);
  });

  test("an answer that is ready while no session is there waits for its call to come again", () => {
    const bench = offering();
    bench.hear(call(0));
    bench.feed({ type: "link-down", reason: "test" });
    assert.deepEqual(
      bench.sends({ type: "answer-tool", job: "j1", run: 1, answer: { code: "OK", body: NO_BODY } }),
      [],
    );
    bench.welcome("e1", "s2");
    const again = bench.hear(call(0));
    assert.deepEqual(runs(again), []);
    assert.equal(messages(again)[0]?.["code"], "OK");
  });

  test("another attempt voids what runs; a broker that lost everything may count anew", () => {
    const bench = offering();
    bench.hear(call(0, 2));
    assert.deepEqual(runs(bench.hear(call(0, 1))), []);
    const later = bench.hear(call(0, 3));
    assert.ok(later.some((output) => output.type === "tools-void"));
    assert.deepEqual(
      bench.sends({ type: "answer-tool", job: "j1", run: 1, answer: { code: "OK", body: NO_BODY } }),
      [],
    );
    bench.lose();
    bench.welcome("e2", "s2");
    assert.deepEqual(runs(bench.hear(call(0, 1))), [3]);
  });

  test("who offers none says so", () => {
    const bench = live();
    assert.equal(messages(bench.hear(call(0)))[0]?.["code"], "NOT_FOUND");
  });
});

describe("requests and events", () => {
  const ask = (method: string, rid: string) => ({
    type: "ask" as const,
    rid,
    method,
    body: NO_BODY,
    timeoutMs: 10_000,
  });

  test("a request is asked again after a lost session, but jobs.retry is not", () => {
    const bench = live();
    bench.feed(ask("stats.get", "r1"));
    bench.feed(ask("jobs.retry", "r2"));
    const lost = bench.lose();
    const answered = lost.flatMap((output) => (output.type === "answered" ? [output.rid] : []));
    assert.deepEqual(answered, ["r2"]);
    const again = bench.welcome("e1", "s2").filter((message) => message["t"] === "request");
    assert.deepEqual(
      again.map((message) => message["rid"]),
      ["r1"],
    );
  });

  test("a subscription is made anew, and its first event then says that some may be missing", () => {
    const bench = live();
    bench.feed({ type: "subscribe", key: "k", kinds: ["job"] });
    const event = (sub: string, seq: number): ToClient => ({ t: "event", sub, seq, kind: "job.done", at_ms: 1 });
    const gaps = (outputs: Output[]): boolean[] =>
      outputs.flatMap((output) => (output.type === "event" ? [output.event.gap] : []));
    bench.hear({ t: "reply", rid: "sub-k" }, { result: { sub: "s1" } });
    assert.deepEqual(gaps(bench.hear(event("s1", 0))), [false]);
    assert.deepEqual(gaps(bench.hear(event("s1", 2))), [true]);
    bench.lose();
    assert.ok(bench.welcome("e1", "s2").some((message) => message["rid"] === "sub-k"));
    bench.hear({ t: "reply", rid: "sub-k" }, { result: { sub: "s9" } });
    assert.deepEqual(gaps(bench.hear(event("s9", 0))), [true]);
    assert.deepEqual(gaps(bench.hear(event("s1", 3))), []);
  });

  test("one that was closed while it was being made is unmade", () => {
    const bench = live();
    bench.feed({ type: "subscribe", key: "k", kinds: [] });
    bench.feed({ type: "unsubscribe", key: "k" });
    const sent = messages(bench.hear({ t: "reply", rid: "sub-k" }, { result: { sub: "s1" } }));
    assert.equal(sent[0]?.["method"], "events.unsubscribe");
  });
});

test("a random life: whatever happens, each job ends once", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    let state = seed;
    const random = (n: number): number => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      return Math.floor((state / 2_147_483_648) * n);
    };
    const bench = new Bench(["tcp://a:1", "tcp://b:2"]);
    const ended = new Map<string, number>();
    const note = (outputs: Output[]): void => {
      for (const output of outputs)
        if (output.type === "ended") ended.set(output.job, (ended.get(output.job) ?? 0) + 1);
    };
    let opened = 0;
    for (let step = 0; step < 120; step += 1) {
      const job = `j${random(Math.max(1, opened))}`;
      const what = random(9);
      if (what === 0) {
        const message = { t: "submit" as const, job: `j${opened}`, program: "p", timeout_ms: 5_000 };
        note(bench.feed({ type: "open", message, body: NO_BODY, timeoutMs: 5_000, resume: false }));
        opened += 1;
      } else if (what === 1) bench.welcome(`e${random(3)}`, `s${step}`);
      else if (what === 2) note(bench.result(job));
      else if (what === 3) note(bench.refuse(job, "adopting", random(2) === 0));
      else if (what === 4) note(bench.feed({ type: "cancel", job }));
      else if (what === 5) note(bench.feed({ type: "link-down", reason: "test" }));
      else if (what === 6) note(bench.hear(NO_SESSION));
      else if (what === 7) note(bench.pass(random(1_000)));
      else note(bench.hear(...chunk(random(3), "x")));
    }
    note(bench.pass(60_000));
    assert.equal(ended.size, opened, `seed ${seed}`);
    assert.ok(
      [...ended.values()].every((times) => times === 1),
      `seed ${seed}`,
    );
  }
});
