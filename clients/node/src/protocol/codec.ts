/** Messages to frames and back (SPEC.md section 2). */
import { encode } from "@msgpack/msgpack";
import { pruned, type Shape, take } from "./fields.js";
import { type HeaderMap, readHeader } from "./header.js";
import type { ToClient, ToWorker } from "./messages.js";
import { Problem } from "./problem.js";
import { CLIENT_SHAPES, WORKER_SHAPES } from "./shapes.js";

export const NO_BODY = new Uint8Array(0);

const TAG = new Uint8Array([0x44, 0x4a, 0x50, 0x31]);

/** What is relayed may be a little longer than what was sent, and what arrives was bounded by the socket. */
const MAX_HEADER_BYTES = 4 * 1024 * 1024;

/** A message as it came. */
export interface Incoming<M> {
  message: M;
  body: Uint8Array;
}

/** Reads and writes what passes at one endpoint. */
export class Codec<M extends { t: string }> {
  constructor(private readonly shapes: Readonly<Record<string, Shape>>) {}

  /** Throws Problem; its `names` say what the message was about, as far as that could be read. */
  decode(frames: readonly Uint8Array[]): Incoming<M> {
    const [tag, header, body] = frames;
    if (frames.length < 2 || frames.length > 3 || tag === undefined || header === undefined) {
      throw new Problem("bad_frames", `a message has 2 or 3 frames, not ${frames.length}`);
    }
    if (!isTag(tag)) throw new Problem("bad_frames", "the first frame is not DJP1");
    if (header.length > MAX_HEADER_BYTES) throw new Problem("header_too_large", `${header.length} bytes of header`);
    const fields = readHeader(header);
    try {
      const t = fields.get("t");
      const shape = typeof t === "string" && Object.hasOwn(this.shapes, t) ? this.shapes[t] : undefined;
      if (shape === undefined) throw new Problem("unknown_type", "no message has this type");
      return { message: { t, ...take(fields, shape) } as unknown as M, body: body ?? NO_BODY };
    } catch (error) {
      if (error instanceof Problem) error.names = namesOf(fields);
      throw error;
    }
  }

  /** The header's octets. Throws Problem when it cannot be written. */
  encodeHeader(message: { t: string }): Uint8Array {
    const shape = this.shapes[message.t] ?? {};
    try {
      return encode(pruned(message as Record<string, unknown> & { t: string }, shape), { ignoreUndefined: true });
    } catch (error) {
      throw new Problem("bad_header", (error as Error).message);
    }
  }

  /** The frames of a message; an empty body is left out. */
  encode(message: { t: string }, body: Uint8Array = NO_BODY): Uint8Array[] {
    const header = this.encodeHeader(message);
    return body.length > 0 ? [TAG, header, body] : [TAG, header];
  }
}

/** For clients; reads the messages of both directions, so that tests can play the other side. */
export function clientCodec(): Codec<ToClient> {
  return new Codec<ToClient>(CLIENT_SHAPES);
}

/** For workers. */
export function workerCodec(): Codec<ToWorker> {
  return new Codec<ToWorker>(WORKER_SHAPES);
}

function isTag(frame: Uint8Array): boolean {
  return frame.length === 4 && TAG.every((octet, n) => frame[n] === octet);
}

function namesOf(fields: HeaderMap): Problem["names"] {
  const names: Problem["names"] = {};
  for (const key of ["job", "rid", "lease"] as const) {
    const value = fields.get(key);
    if (typeof value === "string" && value.length <= 64) names[key] = value;
  }
  return names;
}
