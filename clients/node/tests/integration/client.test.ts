/** The client against a real broker and a real pool; tests/clients/test_node.py of the repository starts both. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  Aborted,
  AlreadyExists,
  BrokerUnreachable,
  callOnce,
  Client,
  ClientClosed,
  DeadlineExceeded,
  DspymqError,
  FailedPrecondition,
  InvalidArgument,
  NotFound,
  Prediction,
  ProgramError,
  ResourceExhausted,
  type Tool,
} from "../../src/index.js";

const address = process.env["DSPYMQ_TEST_CLIENTS"];
const TEXT = "Once upon a time there was a queue that never grew.";

async function eventually<T>(look: () => Promise<T | undefined | false>, what: string): Promise<T> {
  for (const end = performance.now() + 10_000; performance.now() < end; await sleep(20)) {
    const found = await look();
    if (found) return found;
  }
  throw new Error(`${what} did not happen`);
}

/** Passes TCP on to the broker, until it is told to cut. */
class CuttingProxy {
  connections = 0;
  private readonly open = new Set<Socket>();
  private constructor(
    private readonly server: Server,
    private readonly target: { host: string; port: number },
  ) {
    server.on("connection", (near) => {
      this.connections += 1;
      const far = connect(this.target);
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        this.open.add(from);
        from.pipe(to);
        from.on("error", () => to.destroy());
        from.on("close", () => {
          to.destroy();
          this.open.delete(from);
        });
      }
    });
  }

  static async listen(broker: string): Promise<CuttingProxy> {
    const { hostname, port } = new URL(broker);
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new CuttingProxy(server, { host: hostname, port: Number(port) });
  }

  get address(): string {
    return `tcp://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  cut(): void {
    for (const socket of this.open) socket.destroy();
  }

  close(): void {
    this.cut();
    this.server.close();
  }
}

describe("client", { skip: address ? false : "DSPYMQ_TEST_CLIENTS names no broker", timeout: 120_000 }, () => {
  let client: Client;
  before(() => {
    client = new Client({ addresses: address, name: "node-tests", defaults: { timeoutMs: 20_000 } });
  });
  after(() => client.close());

  test("call", async () => {
    const answer = await client.call("echo", { text: TEXT });
    assert.ok(answer instanceof Prediction);
    assert.deepEqual(answer.outputs, { text: TEXT });
    assert.equal(answer.attempt, 1);
    assert.ok(answer.revision);
    assert.ok((answer.timings?.run_ms ?? -1) >= 0);
  });

  test("an inline signature, with types", async () => {
    const { outputs, usage } = await client.call<{ name: string; age: number }>("text -> name, age: int", {
      text: "Ada, 36",
    });
    assert.equal(typeof outputs.name, "string");
    assert.ok(Number.isInteger(outputs.age));
    assert.ok((usage?.calls ?? 0) >= 1);
  });

  test("text of every kind comes back as it went", async () => {
    const text = "é \u{1f600} \0 \u2028 \n".repeat(1_000);
    assert.equal((await client.call("echo", { text })).outputs.text, text);
  });

  test("ten million characters", async () => {
    assert.equal((await client.call("large", { size: 10_000_000 })).outputs.text.length, 10_000_000);
  });

  test("five hundred calls at once", async () => {
    const texts = Array.from({ length: 500 }, (_, n) => String(n));
    const answers = await Promise.all(texts.map((text) => client.call("echo", { text })));
    assert.deepEqual(
      answers.map((answer) => answer.outputs.text),
      texts,
    );
  });

  describe("map", () => {
    test("keeps the order, and reads its inputs as they are needed", async () => {
      let read = 0;
      async function* inputs(): AsyncGenerator<{ ms: number }> {
        for (let n = 0; n < 40; n += 1) {
          read += 1;
          yield { ms: n % 4 === 0 ? 60 : 1 };
        }
      }
      const found: number[] = [];
      for await (const { outputs } of client.map("nap", inputs(), { concurrency: 4 })) {
        found.push(outputs.ms);
        if (found.length === 1) assert.ok(read <= 33, `${read} inputs were read`);
      }
      assert.deepEqual(
        found,
        Array.from({ length: 40 }, (_, n) => (n % 4 === 0 ? 60 : 1)),
      );
    });

    test("throws the first error, or yields errors in their place", async () => {
      const inputs = [{ text: "a" }, { wrong: 1 }, { text: "b" }];
      await assert.rejects(async () => {
        for await (const _ of client.map("echo", inputs));
      }, InvalidArgument);
      const found: unknown[] = [];
      for await (const one of client.map("echo", inputs, { returnErrors: true })) {
        found.push(one instanceof DspymqError ? one.reason : one.outputs.text);
      }
      assert.deepEqual(found, ["a", "invalid_inputs", "b"]);
    });

    test("leaving the loop cancels what is open", async () => {
      for await (const _ of client.map("nap", [{ ms: 1 }, { ms: 60_000 }, { ms: 60_000 }], { concurrency: 3 })) break;
      await eventually(async () => (await client.stats())["jobs"].live === 0, "the end of the naps");
    });

    test("an aborted signal ends it", async () => {
      const controller = new AbortController();
      const run = async (): Promise<void> => {
        for await (const _ of client.map("nap", [{ ms: 1 }, { ms: 60_000 }], { signal: controller.signal }))
          controller.abort();
      };
      await assert.rejects(run, { name: "AbortError" });
    });
  });

  describe("streams", () => {
    test("the text, as it is written", async () => {
      const stream = client.stream("story", { text: TEXT });
      let text = "";
      let chunks = 0;
      for await (const chunk of stream) {
        if (chunk.reset) text = "";
        text += chunk.text;
        chunks += 1;
      }
      assert.equal(text, TEXT);
      assert.ok(chunks > 3, `${chunks} chunks`);
      assert.deepEqual(stream.text, { answer: TEXT });
      assert.equal((await stream.result()).outputs.answer, TEXT);
    });

    test("a slow reader gets all of it through a window of one", async () => {
      const job = client.submit("story", { text: TEXT }, { stream: true, window: 1 });
      await job.result();
      let text = "";
      for await (const chunk of job) text = (chunk.reset ? "" : text) + chunk.text;
      assert.equal(text, TEXT);
    });

    test("leaving the loop cancels the job", async () => {
      const stream = client.stream("story", { text: TEXT.repeat(20) });
      for await (const _ of stream) break;
      await assert.rejects(stream.result(), { code: "CANCELLED", reason: "cancelled" });
    });

    test("the loop ends with the job's error", async () => {
      await assert.rejects(async () => {
        for await (const _ of client.stream("fail", { text: "no" }));
      }, ProgramError);
    });

    test("only a job that streams can be iterated", async () => {
      const job = client.submit("echo", { text: "x" });
      await assert.rejects(job.nextChunk(), FailedPrecondition);
      await job.result();
    });
  });

  describe("cancel", () => {
    test("a signal ends the call at once, and cancels its job", async () => {
      const controller = new AbortController();
      const began = performance.now();
      setTimeout(() => controller.abort(), 150);
      await assert.rejects(client.call("nap", { ms: 60_000 }, { signal: controller.signal }), { name: "AbortError" });
      assert.ok(performance.now() - began < 5_000);
      await eventually(async () => (await client.stats())["jobs"].live === 0, "the end of the nap");
    });

    test("a signal that is aborted already starts nothing", async () => {
      const signal = AbortSignal.abort(new Error("too late"));
      await assert.rejects(client.call("echo", { text: "x" }, { signal }), { message: "too late" });
      assert.throws(() => client.submit("echo", { text: "x" }, { signal }), { message: "too late" });
    });

    test("AbortSignal.timeout is a bound of the caller's", async () => {
      const call = client.call("nap", { ms: 60_000 }, { signal: AbortSignal.timeout(100) });
      await assert.rejects(call, { name: "TimeoutError" });
    });

    test("a wait can be given up without the job", async () => {
      const job = client.submit("nap", { ms: 300 });
      await assert.rejects(job.result({ signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
      assert.equal((await job.result()).outputs.ms, 300);
      job.cancel();
      assert.equal(job.status, "done");
    });
  });

  describe("tools", () => {
    const add: Tool = {
      name: "add",
      description: "The sum of two integers.",
      parameters: {
        type: "object",
        properties: { a: { type: "integer" }, b: { type: "integer" } },
        required: ["a", "b"],
      },
      run: async ({ a, b }: { a: number; b: number }) => {
        await sleep(5);
        return a + b;
      },
    };

    test("are called, with what the program gives", async () => {
      const inputs = { tool: "add", args: { a: 2, b: 3 }, times: 3 };
      assert.deepEqual((await client.call("consult", inputs, { tools: [add] })).outputs.values, [5, 5, 5]);
    });

    test("that fail are failures of the call, not of the job", async () => {
      const broken: Tool = { name: "broken", run: () => Promise.reject(new Error("broken")) };
      const sync: Tool = {
        name: "sync",
        run: () => {
          throw new Error("broken");
        },
      };
      const odd: Tool = { name: "odd", run: () => () => "a function cannot be sent" };
      for (const tool of [broken, sync, odd]) {
        const { outputs } = await client.call("consult", { tool: tool.name, args: {}, times: 1 }, { tools: [tool] });
        assert.deepEqual(outputs.values, ["failed"], tool.name);
      }
    });

    test("are told when nobody waits any more", async () => {
      let stopped: unknown;
      const called = new Promise<void>((resolve) => {
        const slow: Tool = {
          name: "slow",
          run: async (_, { signal }) => {
            resolve();
            await sleep(60_000, undefined, { signal }).catch((error: Error) => {
              stopped = error.name;
            });
          },
        };
        const job = client.submit("consult", { tool: "slow", args: {}, times: 1 }, { tools: [slow] });
        void job.result().catch(() => undefined);
        setTimeout(() => job.cancel(), 300);
      });
      await called;
      await eventually(async () => stopped === "AbortError", "the end of the tool");
    });

    test("a connection that breaks between call and answer: the tool runs once, the job goes on", async () => {
      const proxy = await CuttingProxy.listen(address as string);
      await using other = new Client({ addresses: proxy.address, name: "cut-off" });
      let runs = 0;
      const cut: Tool = {
        name: "cut",
        run: async () => {
          runs += 1;
          proxy.cut();
          await sleep(400);
          return runs;
        },
      };
      const { outputs, attempt } = await other.call("consult", { tool: "cut", args: {}, times: 3 }, { tools: [cut] });
      assert.deepEqual(outputs.values, [1, 2, 3]);
      assert.equal(attempt, 1);
      assert.equal(proxy.connections, 4);
      proxy.close();
    });

    test("that cannot be offered are refused here", () => {
      for (const tools of [
        [{ name: "a b", run: () => 1 }],
        [{ name: "finish", run: () => 1 }],
        [add, add],
        [{ name: "x" }],
      ]) {
        assert.throws(() => client.submit("consult", {}, { tools: tools as Tool[] }), { reason: "invalid_tools" });
      }
    });
  });

  describe("errors", () => {
    test("no such program", async () => {
      const error = await client.call("ecko", { text: "x" }).catch((problem: unknown) => problem);
      assert.ok(error instanceof NotFound);
      assert.deepEqual(error.details["close_matches"], ["echo"]);
    });

    test("inputs that do not fit, by field", async () => {
      const error = await client.call("echo", { text: 7, size: 1 }).catch((problem: unknown) => problem);
      assert.ok(error instanceof InvalidArgument);
      assert.deepEqual(Object.keys(error.fields).sort(), ["size", "text"]);
    });

    test("a program that fails", async () => {
      const error = await client.call("fail", { text: "out of luck" }).catch((problem: unknown) => problem);
      assert.ok(error instanceof ProgramError);
      assert.match(error.message, /out of luck/);
      assert.ok(error.job);
    });

    test("out of time", async () => {
      await assert.rejects(client.call("nap", { ms: 60_000 }, { timeoutMs: 300 }), DeadlineExceeded);
    });

    test("what is too long is refused here", async () => {
      await assert.rejects(client.call("echo", { text: "x".repeat(17_000_000) }), ResourceExhausted);
    });

    test("wrong options", () => {
      assert.throws(() => client.submit("echo", {}, { priority: 10 }), { reason: "bad_header" });
      assert.throws(() => client.submit("echo", {}, { timeoutMs: -1 }), { reason: "invalid_option" });
      assert.throws(() => client.submit("echo", [] as never), { reason: "invalid_inputs" });
      assert.throws(() => client.submit("echo", { f: () => 1 }), { reason: "invalid_body", message: /inputs\.f/ });
      assert.throws(() => new Client({ addresses: "tcp://nowhere" }), { reason: "invalid_address" });
      assert.throws(() => new Client({ name: "é" }), { reason: "invalid_option" });
    });

    test("no broker", async () => {
      await using other = new Client({ addresses: "tcp://127.0.0.1:1", connectTimeoutMs: 500 });
      await assert.rejects(other.call("echo", { text: "x" }), BrokerUnreachable);
      await assert.rejects(other.stats(), BrokerUnreachable);
    });

    test("a callback that throws is seen, and harms nobody", async () => {
      const seen = new Promise((resolve) => {
        const listeners = process.listeners("uncaughtException");
        process.removeAllListeners("uncaughtException");
        process.once("uncaughtException", (error) => {
          for (const each of listeners) process.on("uncaughtException", each);
          resolve(error.message);
        });
      });
      const onStarted = (): void => {
        throw new Error("thrown by a callback");
      };
      assert.deepEqual((await client.call("echo", { text: "x" }, { onStarted })).outputs, { text: "x" });
      assert.equal(await seen, "thrown by a callback");
    });
  });

  test("the second address is taken when the first has nobody", async () => {
    await using other = new Client({ addresses: ["tcp://127.0.0.1:1", address as string] });
    assert.deepEqual((await other.call("echo", { text: "x" })).outputs, { text: "x" });
    assert.equal(other.address, address);
  });

  test("one call without a client", async () => {
    assert.deepEqual((await callOnce("echo", { text: "x" }, { address })).outputs, { text: "x" });
    await assert.rejects(callOnce("fail", { text: "no" }, { address }), ProgramError);
    await assert.rejects(callOnce("ecko", {}, { address }), NotFound);
    await assert.rejects(callOnce("nap", { ms: 60_000 }, { address, timeoutMs: 200 }), DeadlineExceeded);
    await assert.rejects(callOnce("nap", { ms: 60_000 }, { address, signal: AbortSignal.timeout(100) }), {
      name: "TimeoutError",
    });
    await assert.rejects(callOnce("echo", {}, { address: "tcp://127.0.0.1:1", timeoutMs: 300 }), BrokerUnreachable);
    const proxy = await CuttingProxy.listen(address as string);
    const call = callOnce("nap", { ms: 600 }, { address: proxy.address });
    setTimeout(() => proxy.cut(), 300);
    const { attempt } = await call;
    assert.equal(attempt, 1);
    assert.equal(proxy.connections, 2);
    proxy.close();
  });

  test("where a job stands", async () => {
    const news: string[] = [];
    const job = client.submit(
      "steps",
      { to: 5 },
      {
        onAccepted: ({ state }) => news.push(state),
        onStarted: ({ worker }) => news.push(worker ? "started" : "?"),
        onProgress: ({ done, total }) => news.push(`${done}/${total}`),
      },
    );
    await job.result();
    assert.ok(["queued", "dispatched"].includes(news[0] ?? ""), String(news));
    assert.equal(news[1], "started");
    assert.ok(
      news.slice(2).every((text) => /^[1-5]\/5$/.test(text)),
      String(news),
    );
    assert.equal(job.progress?.total, 5);
  });

  test("requests", async () => {
    const names = (await client.programs()).map(({ name }) => name);
    assert.ok(names.includes("echo"));
    assert.equal((await client.program("echo")).name, "echo");
    assert.ok((await client.workers()).length >= 1);
    assert.ok((await client.stats())["uptime_ms"] > 0);
    await assert.rejects(client.program("nothing"), NotFound);
    await assert.rejects(client.request("no.such"), { code: "UNIMPLEMENTED", reason: "unknown_method" });
    await assert.rejects(client.request("stats.get", {}, { signal: AbortSignal.abort(new Error("no")) }), {
      message: "no",
    });
  });

  test("a job is found by its id, run again, and forgotten", async () => {
    // Done but not acknowledged: only another client's jobs are kept for this one to see.
    const id = `node-${process.pid}-${Math.random()}`;
    await using other = new Client({ addresses: address, name: "other" });
    const job = other.submit("nap", { ms: 400 }, { id, onDisconnect: "keep" });
    assert.equal((await eventually(async () => client.jobInfo(id).catch(() => false as const), "the job"))["job"], id);
    const joined = client.attach(id);
    await assert.rejects(job.result(), Aborted);
    const ended = await joined.result();
    assert.deepEqual(ended.outputs, { ms: 400 });
    await assert.rejects(client.submit("nap", { ms: 1 }, { id }).result(), AlreadyExists);
    await assert.rejects(
      eventually(async () => {
        await client.jobInfo(id);
        return undefined;
      }, "the end of the result"),
      { reason: "result_gone" },
    );
  });

  test("the same id in one client is refused while it is open", async () => {
    const job = client.submit("nap", { ms: 200 }, { id: `twice-${Math.random()}` });
    await assert.rejects(client.submit("nap", { ms: 200 }, { id: job.id }).result(), AlreadyExists);
    assert.equal((await job.result()).outputs.ms, 200);
  });

  test("events", async () => {
    await using events = client.events("job.done");
    await events.ready();
    const job = client.submit("echo", { text: "x" });
    for await (const event of events) {
      if (event.details["job"] !== job.id) continue;
      assert.equal(event.kind, "job.done");
      assert.equal(event.details["code"], "OK");
      assert.ok(Math.abs(event.atMs - Date.now()) < 60_000);
      break;
    }
    await job.result();
    await assert.rejects(client.events("no.such").ready(), InvalidArgument);
  });

  test("a client that is closed ends what is open", async () => {
    const other = new Client({ addresses: address });
    const job = other.submit("nap", { ms: 60_000 });
    const events = other.events();
    await events.ready();
    await other.close();
    await other.close();
    await assert.rejects(job.result(), ClientClosed);
    await assert.rejects(other.call("echo", { text: "x" }), ClientClosed);
    await assert.rejects(async () => {
      for await (const _ of events);
    }, ClientClosed);
    await eventually(async () => (await client.jobInfo(job.id))["code"] === "CANCELLED", "the cancelled job");
  });
});
