/** The types of header fields (SPEC.md section 4.1), and how a header map becomes a checked message. */
import { Float, type HeaderMap, type HeaderValue } from "./header.js";
import { Problem } from "./problem.js";

/** Takes a value of the right type, as plain JavaScript; throws Problem `bad_header`, which says what is due. */
export type Check = (value: HeaderValue) => unknown;

/** One field. `fallback` is what leaving it out means; undefined: there is no value. */
export interface Field {
  readonly check: Check;
  readonly isRequired: boolean;
  readonly fallback: unknown;
}

export type Shape = Readonly<Record<string, Field>>;

const MAX_INTEGER = Number.MAX_SAFE_INTEGER;
const PRINTABLE = /^[\x20-\x7e]*$/;

export function required(check: Check): Field {
  return { check, isRequired: true, fallback: undefined };
}

export function optional(check: Check, fallback?: unknown): Field {
  return { check, isRequired: false, fallback };
}

export const bool: Check = (value) => {
  if (typeof value !== "boolean") throw due("true or false");
  return value;
};

export function int(low: number, high: number = MAX_INTEGER): Check {
  return (value) => {
    if (typeof value !== "number" || value < low || value > high) throw due(`an integer from ${low} to ${high}`);
    return value;
  };
}

export const count: Check = int(0);
export const positive: Check = int(1);

export function float(low: number, high: number): Check {
  return (value) => {
    const plain = value instanceof Float ? value.value : value;
    if (typeof plain !== "number" || plain < low || plain > high) throw due(`a number from ${low} to ${high}`);
    return plain;
  };
}

export function str(most: number = Infinity, least = 0): Check {
  return (value) => {
    if (typeof value !== "string" || value.length < least || !fits(value, most)) {
      throw due(most === Infinity ? "a text" : `a text of ${least} to ${most} characters`);
    }
    return value;
  };
}

export const name: Check = str(128, 1);
export const text: Check = str(4096);

export const id: Check = (value) => {
  if (!isId(value)) throw due("1 to 64 printable ASCII characters");
  return value;
};

export function oneOf(...words: string[]): Check {
  return (value) => {
    if (typeof value !== "string" || !words.includes(value)) throw due(`one of ${words.join(", ")}`);
    return value;
  };
}

export function list(of: Check, most: number = Infinity): Check {
  return (value) => {
    if (!Array.isArray(value) || value.length > most) throw due(`an array of at most ${most} entries`);
    return value.map(of);
  };
}

export function mapOf(of: Check): Check {
  return (value) => {
    if (!(value instanceof Map)) throw due("a map");
    return plainMap([...value].map(([key, inner]) => [key, of(inner)]));
  };
}

export function struct(shape: Shape): Check {
  return (value) => {
    if (!(value instanceof Map)) throw due("a map");
    return take(value, shape);
  };
}

export const any: Check = (value) => {
  if (value instanceof Float) return value.value;
  if (Array.isArray(value)) return value.map(any);
  if (value instanceof Map) return plainMap([...value].map(([key, inner]) => [key, any(inner)]));
  return value;
};

/** Whether this is a text that may be an id. */
export function isId(value: unknown): value is string {
  return typeof value === "string" && value.length >= 1 && value.length <= 64 && PRINTABLE.test(value);
}

/** The fields of a shape, checked, with their defaults; unknown keys are ignored. Throws Problem `bad_header`. */
export function take(header: HeaderMap, shape: Shape): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const [key, field] of Object.entries(shape)) {
    const value = header.get(key);
    if (value === undefined || (value === null && !field.isRequired)) {
      if (field.isRequired) throw new Problem("bad_header", `\`${key}\` is missing`);
      // Nothing of one message may be shared with the next.
      if (field.fallback !== undefined) found[key] = copy(field.fallback);
    } else {
      found[key] = checked(field.check, value, key);
    }
  }
  return found;
}

/** The message without what has its default, or is undefined. */
export function pruned(message: Readonly<Record<string, unknown>>, shape: Shape): Record<string, unknown> {
  const kept: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(message)) {
    if (value === undefined || value === null) continue;
    const field = shape[key];
    if (field !== undefined && !field.isRequired && isSame(value, field.fallback)) continue;
    kept[key] = value;
  }
  return kept;
}

function checked(check: Check, value: HeaderValue, key: string): unknown {
  try {
    return check(value);
  } catch (error) {
    if (error instanceof Problem) throw new Problem("bad_header", `\`${key}\`: ${error.message}`);
    throw error;
  }
}

function due(what: string): Problem {
  return new Problem("bad_header", `must be ${what}`);
}

function fits(value: string, most: number): boolean {
  // Characters are code points; a text that is short in UTF-16 units is short in these as well.
  return value.length <= most || (value.length <= 2 * most && [...value].length <= most);
}

function copy(value: unknown): unknown {
  return typeof value === "object" && value !== null ? structuredClone(value) : value;
}

function isSame(value: unknown, fallback: unknown): boolean {
  if (Array.isArray(value)) return Array.isArray(fallback) && value.length === 0 && fallback.length === 0;
  if (typeof value === "object" && value !== null && typeof fallback === "object" && fallback !== null) {
    return Object.keys(value).length === 0 && Object.keys(fallback).length === 0;
  }
  return value === fallback;
}

function plainMap(entries: [string, unknown][]): Record<string, unknown> {
  // `fromEntries` defines properties, so that even a key `__proto__` is one like any other.
  return Object.fromEntries(entries);
}
