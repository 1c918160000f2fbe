/** Bodies: one msgpack map, whose values are whatever programs take and give (SPEC.md section 2.6). */
import { decode, encode } from "@msgpack/msgpack";
import { Problem } from "./problem.js";

export type PlainMap = Record<string, unknown>;

const MAX_DEPTH = 200;

/**
 * A body of these parts; parts that are undefined are left out. Throws Problem `invalid_body`, which names the place.
 *
 * Dates become ISO 8601 text, Maps maps, Sets arrays; of other objects `toJSON` is used if there is one; `undefined`
 * is left out of maps. Bytes (Uint8Array, ArrayBuffer) stay bytes.
 */
export function encodeBody(parts: PlainMap): Uint8Array {
  const plain: PlainMap = {};
  for (const [name, value] of Object.entries(parts)) {
    if (value !== undefined) define(plain, name, toPlain(value, name, 0));
  }
  try {
    return encode(plain, { maxDepth: MAX_DEPTH + 8, sortKeys: false });
  } catch (error) {
    throw new Problem("invalid_body", (error as Error).message);
  }
}

/** The map that a body holds. An empty one is the empty map. Throws Problem `invalid_body`. */
export function decodeBody(octets: Uint8Array): PlainMap {
  if (octets.length === 0) return {};
  let value: unknown;
  try {
    value = toNumbers(decode(octets, { useBigInt64: true, mapKeyConverter: String }));
  } catch (error) {
    throw new Problem("invalid_body", (error as Error).message);
  }
  return mapOf(value, "the body");
}

/** One part of a body as a map; where a map is due an empty array, or nothing, is the empty map. */
export function bodyPart(octets: Uint8Array, name: string): PlainMap {
  return mapOf(decodeBody(octets)[name] ?? {}, `\`${name}\``);
}

/** The value as a map. Throws Problem `invalid_body`. */
export function mapOf(value: unknown, what: string): PlainMap {
  if (Array.isArray(value) && value.length === 0) return {};
  if (!isMap(value)) throw new Problem("invalid_body", `${what} must be a map`);
  return value;
}

export function isMap(value: unknown): value is PlainMap {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value);
}

/** The value as msgpack can hold it; `where` is for the error. */
function toPlain(value: unknown, where: string, depth: number): unknown {
  switch (typeof value) {
    case "string":
      if (!value.isWellFormed()) throw new Problem("invalid_body", `${where}: the text holds half a character`);
      return value;
    case "number":
    case "boolean":
    case "undefined":
      return value;
    case "bigint":
      if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER)) {
        throw new Problem("invalid_body", `${where}: integers beyond 2^53 - 1 are sent as text`);
      }
      return Number(value);
    case "object":
      return value === null ? null : fromObject(value, where, depth);
    default:
      throw new Problem("invalid_body", `${where}: a ${typeof value} cannot be sent`);
  }
}

function fromObject(value: object, where: string, depth: number): unknown {
  if (depth >= MAX_DEPTH) throw new Problem("invalid_body", `${where}: nests deeper than ${MAX_DEPTH}`);
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (Array.isArray(value)) return value.map((inner, n) => toPlain(inner, `${where}[${n}]`, depth + 1) ?? null);
  if (value instanceof Set) return [...value].map((inner, n) => toPlain(inner, `${where}[${n}]`, depth + 1) ?? null);
  if (value instanceof Map) {
    return fromEntries(
      [...value].map(([key, inner]) => [String(key), inner]),
      where,
      depth,
    );
  }
  const { toJSON } = value as { toJSON?: unknown };
  if (typeof toJSON === "function") return toPlain(toJSON.call(value, ""), where, depth + 1);
  return fromEntries(Object.entries(value), where, depth);
}

function fromEntries(entries: [string, unknown][], where: string, depth: number): PlainMap {
  const found: PlainMap = {};
  for (const [key, inner] of entries) {
    if (!key.isWellFormed()) throw new Problem("invalid_body", `${where}: a key holds half a character`);
    const plain = toPlain(inner, `${where}.${key}`, depth + 1);
    if (plain !== undefined) define(found, key, plain);
  }
  return found;
}

/** 64-bit integers as numbers where a number holds them exactly. */
function toNumbers(value: unknown): unknown {
  if (typeof value === "bigint") {
    const small = Number(value);
    return Number.isSafeInteger(small) ? small : value;
  }
  if (Array.isArray(value)) {
    for (let n = 0; n < value.length; n += 1) value[n] = toNumbers(value[n]);
  } else if (isMap(value) && !(value instanceof Date)) {
    for (const key of Object.keys(value)) value[key] = toNumbers(value[key]);
  }
  return value;
}

function define(target: PlainMap, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
}
