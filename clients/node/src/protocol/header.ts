/**
 * Reads the header of a DJP/1 message: one msgpack map of the profile of SPEC.md section 2.2.
 *
 * A general msgpack reader is too kind for this: it takes a float for an integer and `bin` for text, and lets a key
 * stand twice. Headers are small, so a reader of their own costs little.
 */
import { Problem } from "./problem.js";

/** Headers nest at most so deep; the header map itself is depth 1. */
const MAX_DEPTH = 8;

/** A number that was written as a float: it is not taken for an integer, even if it is whole. */
export class Float {
  constructor(readonly value: number) {}
}

/** What a header may hold; integers beyond 2^53 - 1 are bigint. */
export type HeaderValue = null | boolean | number | bigint | Float | string | HeaderValue[] | HeaderMap;

export type HeaderMap = Map<string, HeaderValue>;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The header as a map. Throws Problem `bad_header`. */
export function readHeader(octets: Uint8Array): HeaderMap {
  const reader = new Reader(octets);
  const value = reader.value(1);
  if (!(value instanceof Map)) throw bad("the header is not a map");
  if (!reader.atEnd) throw bad("something follows the header map");
  return value;
}

function bad(message: string): Problem {
  return new Problem("bad_header", message);
}

class Reader {
  private at = 0;
  private readonly view: DataView;

  constructor(private readonly octets: Uint8Array) {
    this.view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength);
  }

  get atEnd(): boolean {
    return this.at === this.octets.length;
  }

  value(depth: number): HeaderValue {
    const head = this.take(1);
    const first = this.view.getUint8(head);
    if (first < 0x80) return first;
    if (first < 0x90) return this.map(first & 0x0f, depth);
    if (first < 0xa0) return this.array(first & 0x0f, depth);
    if (first < 0xc0) return this.text(first & 0x1f);
    if (first >= 0xe0) return first - 256;
    switch (first) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xca:
        return float(this.view.getFloat32(this.take(4)));
      case 0xcb:
        return float(this.view.getFloat64(this.take(8)));
      case 0xcc:
        return this.view.getUint8(this.take(1));
      case 0xcd:
        return this.view.getUint16(this.take(2));
      case 0xce:
        return this.view.getUint32(this.take(4));
      case 0xcf:
        return integer(this.view.getBigUint64(this.take(8)));
      case 0xd0:
        return this.view.getInt8(this.take(1));
      case 0xd1:
        return this.view.getInt16(this.take(2));
      case 0xd2:
        return this.view.getInt32(this.take(4));
      case 0xd3:
        return integer(this.view.getBigInt64(this.take(8)));
      case 0xd9:
        return this.text(this.view.getUint8(this.take(1)));
      case 0xda:
        return this.text(this.view.getUint16(this.take(2)));
      case 0xdb:
        return this.text(this.view.getUint32(this.take(4)));
      case 0xdc:
        return this.array(this.view.getUint16(this.take(2)), depth);
      case 0xdd:
        return this.array(this.view.getUint32(this.take(4)), depth);
      case 0xde:
        return this.map(this.view.getUint16(this.take(2)), depth);
      case 0xdf:
        return this.map(this.view.getUint32(this.take(4)), depth);
      default:
        throw bad(`a header holds no msgpack of type 0x${first.toString(16)}`);
    }
  }

  private take(size: number): number {
    const from = this.at;
    if (from + size > this.octets.length) throw bad("the header ends too early");
    this.at += size;
    return from;
  }

  private text(size: number): string {
    const from = this.take(size);
    try {
      return utf8.decode(this.octets.subarray(from, from + size));
    } catch {
      throw bad("a text of the header is not UTF-8");
    }
  }

  private array(size: number, depth: number): HeaderValue[] {
    this.enter(size, depth);
    const found: HeaderValue[] = [];
    for (let n = 0; n < size; n += 1) found.push(this.value(depth + 1));
    return found;
  }

  private map(size: number, depth: number): HeaderMap {
    this.enter(size, depth);
    const found: HeaderMap = new Map();
    for (let n = 0; n < size; n += 1) {
      const key = this.value(depth + 1);
      if (typeof key !== "string") throw bad("a key of the header is not a text");
      if (found.has(key)) throw bad(`the key ${JSON.stringify(key.slice(0, 64))} stands twice in the header`);
      found.set(key, this.value(depth + 1));
    }
    return found;
  }

  private enter(size: number, depth: number): void {
    if (depth > MAX_DEPTH) throw bad(`the header nests deeper than ${MAX_DEPTH}`);
    // Every entry takes at least one octet: a size that cannot be true is not believed.
    if (size > this.octets.length - this.at) throw bad("the header ends too early");
  }
}

function float(value: number): Float {
  if (!Number.isFinite(value)) throw bad("a header holds no NaN and no infinity");
  return new Float(value);
}

function integer(value: bigint): number | bigint {
  const small = Number(value);
  return Number.isSafeInteger(small) ? small : value;
}
