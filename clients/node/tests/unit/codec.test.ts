import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { encode } from "@msgpack/msgpack";
import { bodyPart, decodeBody, encodeBody } from "../../src/protocol/body.js";
import { clientCodec, workerCodec } from "../../src/protocol/codec.js";
import { Float, readHeader } from "../../src/protocol/header.js";
import { Problem } from "../../src/protocol/problem.js";

interface Vector {
  name: string;
  endpoint: "clients" | "workers";
  fields: Record<string, unknown>;
  defaults: Record<string, unknown>;
  body: unknown;
  encodings: { note: string; header: string; body?: string }[];
}

const VECTORS = process.env["DSPYMQ_VECTORS"] ?? new URL("../../../../../protocol/vectors/", import.meta.url).pathname;
const TAG = Buffer.from("DJP1");
const codecs = { clients: clientCodec(), workers: workerCodec() };

function hasSame(value: unknown, pattern: unknown): boolean {
  try {
    assert.deepEqual(value, pattern);
    return true;
  } catch {
    return false;
  }
}

describe("protocol/vectors/encodings.json", { skip: existsSync(VECTORS) ? false : `no ${VECTORS}` }, () => {
  const path = `${VECTORS.replace(/\/$/, "")}/encodings.json`;
  const { messages } = existsSync(path)
    ? (JSON.parse(readFileSync(path, "utf8")) as { messages: Vector[] })
    : { messages: [] };
  for (const vector of messages) {
    const codec = codecs[vector.endpoint];
    test(vector.name, () => {
      for (const { note, header, body } of vector.encodings) {
        const frames = [TAG, Buffer.from(header, "hex"), ...(body === undefined ? [] : [Buffer.from(body, "hex")])];
        const read = codec.decode(frames);
        const message = read.message as unknown as Record<string, unknown>;
        for (const [key, value] of Object.entries({ ...vector.fields, ...vector.defaults })) {
          assert.ok(hasSame(message[key] ?? null, value), `${note}: ${key} is ${JSON.stringify(message[key])}`);
        }
        if (vector.body !== null && vector.body !== undefined)
          assert.deepEqual(decodeBody(read.body), vector.body, note);
        // Writing is free, but what is written must read back as the same.
        const again = codec.decode(codec.encode(read.message, read.body));
        assert.deepEqual(again.message, read.message, note);
      }
    });
  }
  test("there are vectors", () => assert.ok(messages.length > 20));
});

describe("headers", () => {
  const refused: [string, string][] = [
    ["no map", "93010203"],
    ["something after the map", "81a17401a0"],
    ["a key twice", "82a17401a17402"],
    ["a key that is no text", "8101a0"],
    ["bin", "81a174c40100"],
    ["ext", "81a174d60000000000"],
    ["NaN", "81a174cb7ff8000000000000"],
    ["an infinity", "81a174cb7ff0000000000000"],
    ["text that is not UTF-8", "81a174a1ff"],
    ["an end too early", "81a174"],
    ["an array longer than the header", "81a174ddffffffff"],
    ["nothing", ""],
    ["an octet that means nothing", "c1"],
    ["depth 9", `81a174${"91".repeat(8)}c0`],
  ];
  for (const [name, hex] of refused) {
    test(`refuse ${name}`, () => assert.throws(() => readHeader(Buffer.from(hex, "hex")), Problem));
  }

  test("depth 8 is legal", () => assert.ok(readHeader(Buffer.from(`81a174${"91".repeat(7)}c0`, "hex")).has("t")));

  test("a float is not an integer, even if it is whole", () => {
    assert.ok(readHeader(Buffer.from("81a174cb4014000000000000", "hex")).get("t") instanceof Float);
    const header = Buffer.concat([
      Buffer.from("82a174a470696e67a16e", "hex"),
      Buffer.from("cb4014000000000000", "hex"),
    ]);
    assert.throws(() => codecs.clients.decode([TAG, header]), Problem);
  });

  test("a key `__proto__` is a key like any other", () => {
    const header = Buffer.from(encode({ t: "pong", n: 3 }));
    const evil = Buffer.concat([
      Buffer.from([0x83]),
      header.subarray(1),
      Buffer.from("a95f5f70726f746f5f5f81a16101", "hex"),
    ]);
    const { message } = codecs.clients.decode([TAG, evil]);
    assert.deepEqual(message, { t: "pong", n: 3 });
    assert.equal(({} as Record<string, unknown>)["a"], undefined);
  });

  test("random octets never do more than be refused", () => {
    for (let round = 0; round < 5_000; round += 1) {
      const junk = Buffer.from(Array.from({ length: round % 40 }, () => Math.floor(Math.random() * 256)));
      try {
        codecs.workers.decode([TAG, junk]);
      } catch (error) {
        assert.ok(error instanceof Problem);
      }
    }
  });

  test("frames that are none", () => {
    for (const frames of [[], [TAG], [Buffer.from("DJP2"), Buffer.from("80", "hex")], [TAG, TAG, TAG, TAG]]) {
      assert.throws(() => codecs.clients.decode(frames), { reason: "bad_frames" });
    }
  });

  test("what a message was about is read as far as it goes", () => {
    const header = encode({ t: "result", job: "j1", attempt: -1, code: "OK" });
    assert.throws(() => codecs.clients.decode([TAG, header]), { reason: "bad_header", names: { job: "j1" } });
  });

  test("defaults are left out, an empty `held` is not", () => {
    const ready = { t: "ready", worker: "w", slots: {}, programs: [], profiles: [], held: [], more: false };
    const header = codecs.workers.encodeHeader(ready);
    assert.deepEqual([...readHeader(header).keys()], ["t", "worker", "slots", "held"]);
  });
});

describe("bodies", () => {
  test("what JavaScript has is made plain", () => {
    const value = {
      at: new Date(0),
      map: new Map([["a", 1n]]),
      set: new Set([1, 2]),
      gone: undefined,
      hole: [undefined],
      bytes: new Uint8Array([1]),
      big: 2 ** 40,
      nothing: null,
    };
    assert.deepEqual(bodyPart(encodeBody({ inputs: value }), "inputs"), {
      at: "1970-01-01T00:00:00.000Z",
      map: { a: 1 },
      set: [1, 2],
      hole: [null],
      bytes: new Uint8Array([1]),
      big: 2 ** 40,
      nothing: null,
    });
  });

  test("what cannot be sent is refused, with its place", () => {
    const circle: Record<string, unknown> = {};
    circle["self"] = circle;
    for (const value of ["\ud800", () => 1, Symbol("x"), 2n ** 60n, circle]) {
      assert.throws(() => encodeBody({ inputs: { deep: [value] } }), {
        reason: "invalid_body",
        message: /inputs\.deep\[0\]/,
      });
    }
  });

  test("an empty array is met halfway, other things are not", () => {
    assert.deepEqual(bodyPart(encode({ inputs: [] }), "inputs"), {});
    assert.deepEqual(bodyPart(new Uint8Array(0), "inputs"), {});
    for (const value of ["x", 1, [1]]) assert.throws(() => bodyPart(encode({ inputs: value }), "inputs"), Problem);
    for (const hex of ["c1", "93010203", "81"]) assert.throws(() => decodeBody(Buffer.from(hex, "hex")), Problem);
  });

  test("64-bit integers are numbers where a number holds them", () => {
    const body = Buffer.from("82a161cf0000000000000005a162cfffffffffffffffff", "hex");
    assert.deepEqual(decodeBody(body), { a: 5, b: 2n ** 64n - 1n });
  });
});
