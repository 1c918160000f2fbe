import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { decodeBody, encodeBody, type PlainMap } from "../../src/protocol/body.js";
import type { Dispatch, Hello, ToWorker, Welcome } from "../../src/protocol/messages.js";
import { DEFAULT_LIMITS } from "../../src/protocol/messages.js";
import { ProgramRunner } from "../../src/worker/executor.js";
import { JobError } from "../../src/worker/job-error.js";
import type { FromExecutor } from "../../src/worker/messages.js";
import { makePrograms, type Programs } from "../../src/worker/programs.js";
import { checkParameters, closed, misfits, SchemaProblem } from "../../src/worker/schema.js";
import { type Step, WorkerSession } from "../../src/worker/session.js";
import { StreamBuffer } from "../../src/worker/stream-buffer.js";

describe("StreamBuffer", () => {
  const all = (buffer: StreamBuffer, last = false): unknown[] => {
    const found: unknown[] = [];
    for (let chunk = buffer.take(last); chunk !== undefined; chunk = buffer.take(last)) {
      found.push([chunk.seq, chunk.reset, chunk.fields]);
    }
    return found;
  };

  test("without credit the next chunk is longer, and the last needs none", () => {
    const buffer = new StreamBuffer(true, 1, false, undefined);
    buffer.write("a", "one ");
    assert.deepEqual(all(buffer), [[0, false, { a: "one " }]]);
    buffer.write("a", "two ");
    buffer.write("b", "x");
    assert.deepEqual(all(buffer), []);
    buffer.write("a", "three");
    assert.deepEqual(all(buffer, true), [[1, false, { a: "two three", b: "x" }]]);
  });

  test("attempts above 1, and attachments, begin with a reset of all text so far", () => {
    const buffer = new StreamBuffer(true, undefined, true, undefined);
    buffer.write("a", "x");
    assert.deepEqual(all(buffer), [[0, true, { a: "x" }]]);
    buffer.write("a", "y");
    buffer.attach(true, 1);
    assert.deepEqual(all(buffer), [[1, true, { a: "xy" }]]);
    buffer.attach(false, undefined);
    buffer.write("a", "z");
    assert.deepEqual(all(buffer, true), []);
    assert.equal(buffer.nextSeq, 2);
  });

  test("half a character waits for its other half", () => {
    const buffer = new StreamBuffer(true, undefined, false, undefined);
    buffer.write("a", "x\ud83d");
    assert.deepEqual(all(buffer), [[0, false, { a: "x" }]]);
    buffer.write("a", "\ude00y");
    assert.deepEqual(all(buffer), [[1, false, { a: "\u{1f600}y" }]]);
  });

  test("in the end the text is what the outputs say", () => {
    const buffer = new StreamBuffer(true, undefined, false, new Set(["a", "b"]));
    buffer.write("a", "draft");
    buffer.write("c", "no output");
    all(buffer);
    buffer.write("b", "gone");
    buffer.settle({ a: "final", n: 1 });
    assert.deepEqual(all(buffer, true), [[1, true, { a: "final" }]]);
    const exact = new StreamBuffer(true, undefined, false, undefined);
    exact.write("a", "fin");
    all(exact);
    exact.settle({ a: "final" });
    assert.deepEqual(all(exact, true), [[1, false, { a: "al" }]]);
  });

  test("text that is taken back is replaced", () => {
    const buffer = new StreamBuffer(true, undefined, false, undefined);
    buffer.write("a", "x");
    all(buffer);
    buffer.clear("a");
    assert.deepEqual(all(buffer), [[1, true, {}]]);
  });
});

describe("schemas", () => {
  const check = (value: unknown, schema: PlainMap): string[] =>
    misfits(value, schema, schema).map((each) => `${each.path} ${each.keyword}`);

  test("fit and misfit", () => {
    const cases: [unknown, PlainMap, string[]][] = [
      [1, { type: "integer" }, []],
      [1.5, { type: "integer" }, [" type"]],
      [true, { type: ["string", "boolean"] }, []],
      [null, { type: "null" }, []],
      ["c", { enum: ["a", "b"] }, [" enum"]],
      [{ a: 1 }, { const: { a: 1 } }, []],
      [5, { minimum: 6, multipleOf: 2 }, [" minimum", " multipleOf"]],
      [
        5,
        { exclusiveMinimum: 5, exclusiveMaximum: 5, maximum: 4 },
        [" maximum", " exclusiveMinimum", " exclusiveMaximum"],
      ],
      ["\u{1f600}", { maxLength: 1 }, []],
      [[1, "x"], { items: { type: "integer" } }, ["[1] type"]],
      [[1, "x"], { prefixItems: [{ type: "integer" }], items: { type: "string" } }, []],
      [[1], { minItems: 2 }, [" minItems"]],
      [{ a: 1 }, { required: ["a", "b"] }, ["b required"]],
      [{ a: 1, b: 2 }, { properties: { a: {} }, additionalProperties: false }, ["b additionalProperties"]],
      [{ b: "x" }, { additionalProperties: { type: "integer" } }, ["b type"]],
      [
        { a: { b: [{ c: 1 }] } },
        { properties: { a: { properties: { b: { items: { properties: { c: { type: "string" } } } } } } } },
        ["a.b[0].c type"],
      ],
      [1, { anyOf: [{ type: "string" }, { type: "null" }] }, [" anyOf"]],
      [1, { oneOf: [{ type: "integer" }, { type: "number" }] }, [" oneOf"]],
      [1, { allOf: [{ minimum: 2 }, { minimum: 3 }] }, [" minimum", " minimum"]],
      [1, { not: { type: "integer" } }, [" not"]],
      [
        { next: { next: 1 } },
        { $ref: "#/$defs/node", $defs: { node: { properties: { next: { $ref: "#/$defs/node", type: "object" } } } } },
        ["next.next type"],
      ],
      ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", { pattern: "^(a+)+$" }, []],
      [{ constructor: 1 }, { required: ["toString"] }, ["toString required"]],
    ];
    for (const [value, schema, wrong] of cases) assert.deepEqual(check(value, schema), wrong, JSON.stringify(schema));
  });

  test("parameters that cannot be worked with are refused", () => {
    let deep: PlainMap = {};
    for (let n = 0; n < 40; n += 1) deep = { items: deep };
    const wide = Object.fromEntries(Array.from({ length: 3_000 }, (_, n) => [`p${n}`, {}]));
    const bad: unknown[] = [
      "x",
      { type: "string" },
      { properties: 1 },
      { properties: { a: 1 } },
      { properties: { a: { type: "strin" } } },
      { required: "a" },
      { properties: { a: { $ref: "https://elsewhere" } } },
      { properties: { a: { anyOf: 1 } } },
      { properties: { deep } },
      { properties: wide },
    ];
    for (const schema of bad)
      assert.throws(() => checkParameters(schema), SchemaProblem, JSON.stringify(schema).slice(0, 80));
    assert.ok(checkParameters({}));
    assert.deepEqual(check({ a: 1 }, closed({})), ["a additionalProperties"]);
    assert.deepEqual(check({ a: 1 }, closed({ additionalProperties: true })), []);
  });

  test("schemas that refer to themselves without end cost a bounded time", () => {
    const twice = { allOf: [{ $ref: "#/$defs/a" }, { $ref: "#/$defs/a" }] };
    const schema = { $ref: "#/$defs/a", $defs: { a: twice } };
    const began = performance.now();
    misfits({}, schema, schema);
    assert.ok(performance.now() - began < 2_000);
  });
});

describe("programs", () => {
  const make = (programs: Programs) => makePrograms(programs).get("p");

  test("a revision changes with source, inputs, outputs, and what is said", () => {
    const revisions = [
      make({ p: () => ({ n: 1 }) }),
      make({ p: () => ({ n: 2 }) }),
      make({ p: { inputs: { a: "string" }, run: () => ({ n: 1 }) } }),
      make({ p: { inputs: { a: "integer" }, run: () => ({ n: 1 }) } }),
      make({ p: { revision: "v7", run: () => ({ n: 1 }) } }),
    ].map((program) => program?.revision);
    assert.equal(new Set(revisions).size, 5);
    assert.equal(revisions[4], "v7");
    assert.equal(make({ p: () => ({ n: 1 }) })?.revision, revisions[0]);
  });

  test("defaults are filled in, optional inputs may be left out, empty arrays are met halfway", () => {
    const program = make({
      p: {
        inputs: { a: "string", b: { type: "integer", default: 3 }, c: { type: "object", optional: true } },
        run: () => ({}),
      },
    });
    assert.deepEqual(program?.checked({ a: "x" }), { a: "x", b: 3 });
    assert.deepEqual(program?.checked({ a: "x", c: [] }), { a: "x", b: 3, c: {} });
    assert.throws(
      () => program?.checked({ a: 1, c: 2, d: 3 }),
      (error: JobError) => {
        const fields = (error.details as any).fields.map(({ field, problem }: any) => `${field} ${problem}`);
        assert.deepEqual(fields.sort(), ["a type", "c type", "d unknown"]);
        return true;
      },
    );
  });

  test("what is no program is said", () => {
    for (const programs of [{}, { _p: () => ({}) }, { p: {} }, { p: { inputs: { a: "text" }, run: () => ({}) } }]) {
      assert.throws(() => makePrograms(programs as unknown as Programs), TypeError);
    }
  });
});

describe("attempts", () => {
  async function run(
    programs: Programs,
    more: Partial<Dispatch> = {},
    body: PlainMap = {},
  ): Promise<[FromExecutor, PlainMap][]> {
    const said: [FromExecutor, PlainMap][] = [];
    await new Promise<void>((resolve) => {
      const runner = new ProgramRunner(makePrograms(programs), { place: "here", profiles: [] }, (message, octets) => {
        said.push([message, decodeBody(octets)]);
        if (message.t === "result") resolve();
      });
      const program = makePrograms(programs).get("p");
      const ids = {
        lease: "l",
        ns: "n",
        job: "j",
        attempt: 1,
        digest: "d",
        program: "p",
        revision: program?.revision ?? "",
      };
      const dispatch: Dispatch = {
        t: "dispatch",
        ...ids,
        timeout_ms: 5_000,
        lane: "default",
        want: [],
        isolate: false,
        defined: false,
        ...more,
      };
      runner.hear(dispatch, encodeBody({ inputs: {}, ...body }));
    });
    // Nothing may follow the result.
    await sleep(5);
    assert.equal(said.at(-1)?.[0].t, "result");
    return said;
  }

  test("what a program throws, and how", async () => {
    const thrown: [() => unknown, string, string][] = [
      [
        () => {
          throw new Error("no");
        },
        "UNKNOWN",
        "program_error",
      ],
      [
        () => Promise.reject(new JobError("later", { code: "UNAVAILABLE", reason: "lm_unavailable", retryable: true })),
        "UNAVAILABLE",
        "lm_unavailable",
      ],
      [
        () => {
          throw "text";
        },
        "UNKNOWN",
        "program_error",
      ],
      [
        () => {
          throw Object.create(null);
        },
        "UNKNOWN",
        "program_error",
      ],
      [() => undefined, "INTERNAL", "unserializable_output"],
      [() => ({ f: () => 1 }), "INTERNAL", "unserializable_output"],
    ];
    const listeners = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.on("uncaughtException", () => undefined);
    for (const [program, code, reason] of thrown) {
      const [[result]] = (await run({ p: program })).slice(-1) as [[FromExecutor, PlainMap]];
      assert.ok(result.t === "result");
      assert.deepEqual([result.code, result.reason], [code, reason]);
      assert.ok(!result.message?.includes("at "), result.message);
    }
    process.removeAllListeners("uncaughtException");
    for (const each of listeners) process.on("uncaughtException", each);
  });

  test("started, chunks, progress, result, in this order; what is written in one go is one chunk", async () => {
    const said = await run(
      {
        p: async (_: unknown, { write, progress }) => {
          write("a", "x");
          write("a", "y");
          progress({ done: 1 });
          progress({ done: 2 });
          await sleep(10);
          write("a", "z");
          return { a: "xyz" };
        },
      },
      { want: ["chunks", "progress"] },
    );
    assert.deepEqual(
      said.map(([message]) => message.t),
      ["started", "chunk", "progress", "chunk", "result"],
    );
    const [, chunk, progress, , result] = said.map(([message]) => message as Record<string, any>);
    assert.equal(chunk?.["seq"], 0);
    assert.equal(progress?.["done"], 2);
    assert.equal(result?.["chunks"], 2);
  });

  test("out of time: the signal is aborted, and the end is DEADLINE_EXCEEDED, whatever comes back", async () => {
    const said = await run(
      {
        p: async (_: unknown, { signal }) => ({
          aborted: await sleep(60_000, undefined, { signal }).catch(() => true),
        }),
      },
      { timeout_ms: 50 },
    );
    const [result, body] = said.at(-1) as [Record<string, any>, PlainMap];
    assert.deepEqual([result["code"], result["reason"], result["retryable"]], ["DEADLINE_EXCEEDED", "deadline", true]);
    assert.deepEqual(body, {});
  });

  test("out of time: an AbortError of the program's is no failure of its own", async () => {
    const said = await run({ p: (_: unknown, { signal }) => sleep(60_000, {}, { signal }) }, { timeout_ms: 50 });
    assert.equal((said.at(-1)?.[0] as Record<string, any>)["code"], "DEADLINE_EXCEEDED");
  });

  test("bodies that no program can take", async () => {
    for (const body of [{ inputs: "x" }, { spec: { signature: "a -> b" } }, { config: { api_key: "x" } }]) {
      const [result] = (await run({ p: () => ({}) }, {}, body)).at(-1) as [Record<string, any>, PlainMap];
      assert.equal(result["reason"], "invalid_body");
    }
  });
});

describe("WorkerSession", () => {
  const hello: Hello = { t: "hello", name: "w" };
  const limits = DEFAULT_LIMITS;
  const welcome: Welcome = {
    t: "welcome",
    epoch: "e",
    session: "s",
    features: [],
    ping_ms: 1_000,
    dead_ms: 3_000,
    adopt_ms: 1,
    orphan_ms: 1,
    retain_ms: 1,
    limits,
  };
  const kinds = (steps: Step[]): string[] => steps.map((step) => step.type);
  const answer = (session: WorkerSession, step: Step | undefined, nowMs: number): void => {
    assert.ok(step?.type === "send" && step.message.t === "ping");
    assert.deepEqual(session.received({ t: "pong", n: step.message.n }, nowMs, false), []);
  };
  const up = (addresses = ["a"]): WorkerSession => {
    const session = new WorkerSession(addresses, hello, () => 0);
    assert.deepEqual(kinds(session.tick(0, false)), ["open"]);
    const [ping, ...others] = session.received(welcome, 0, false);
    assert.deepEqual(kinds(others), ["up"]);
    answer(session, ping, 0);
    return session;
  };

  test("pings all the time, and takes a dispatch only while something proves that it is heard (R-3.16)", () => {
    const session = up();
    const other: ToWorker = { t: "ping", n: 1 };
    const dispatch: ToWorker = {
      t: "dispatch",
      lease: "l",
      ns: "a",
      job: "j",
      attempt: 1,
      digest: "d",
      program: "p",
      revision: "r",
      timeout_ms: 1_000,
      lane: "default",
      want: [],
      isolate: false,
      defined: false,
    };
    assert.deepEqual(kinds(session.tick(999, false)), []);
    const [ping] = session.tick(1_000, false);
    session.received(other, 1_900, false);
    answer(session, ping, 2_900);
    session.received(other, 3_900, false);
    assert.deepEqual(kinds(session.received(dispatch, 3_999, false)), ["deliver"]);
    assert.deepEqual(kinds(session.received(dispatch, 4_000, false)), ["close", "down"]);
  });

  test("what comes out of the network after dead_ms less ping_ms is not taken (R-3.16)", () => {
    const session = up();
    const pong: ToWorker = { t: "pong", n: 0 };
    assert.deepEqual(kinds(session.received(pong, 1_900, false)), ["deliver"]);
    assert.deepEqual(kinds(session.received(pong, 3_901, false)), ["close", "down"]);
  });

  test("addresses in their order; pauses of at most a second while leases are held", () => {
    const session = new WorkerSession(["a", "b"], hello, () => 0.999);
    const opened: [string, number][] = [];
    for (let now = 0; now < 60_000; now = Math.max(now + 1, session.nextMs())) {
      for (const step of session.tick(now, true)) if (step.type === "open") opened.push([step.address, now]);
    }
    assert.deepEqual(
      opened.slice(0, 4).map(([address]) => address),
      ["a", "b", "a", "b"],
    );
    assert.ok(opened.every(([, at], n) => n === 0 || at - (opened[n - 1]?.[1] ?? 0) <= 3_000));
  });

  test("no_session and bye begin anew", () => {
    for (const message of [
      { t: "bye", reason: "shutdown" } as const,
      { t: "error", code: "FAILED_PRECONDITION", reason: "no_session", message: "", retryable: true } as const,
    ]) {
      const session = up();
      assert.deepEqual(kinds(session.received(message, 10, false)), ["close", "down"]);
      assert.deepEqual(kinds(session.tick(10, false)), ["open"]);
    }
  });
});
