import { randomFillSync } from "node:crypto";

/** A UUID of version 7 (RFC 9562): unguessable, and in the order of time. */
export function uuid7(nowMs: number = Date.now()): string {
  const octets = randomFillSync(Buffer.alloc(16));
  octets.writeUIntBE(nowMs, 0, 6);
  octets[6] = 0x70 | ((octets[6] as number) & 0x0f);
  octets[8] = 0x80 | ((octets[8] as number) & 0x3f);
  const hex = octets.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
