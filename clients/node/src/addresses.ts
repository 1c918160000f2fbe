import { InvalidArgument } from "./errors.js";

/**
 * The addresses to try, in order: those given, else those of the environment, else the default.
 *
 * A text may name several, separated by commas; one without a scheme is TCP. Throws InvalidArgument `invalid_address`.
 */
export function resolveAddresses(
  given: string | readonly string[] | undefined,
  variable: string,
  fallback: string,
): string[] {
  const texts = given ?? (process.env[variable] || fallback);
  const parts = typeof texts === "string" ? texts.split(",") : texts;
  const found = parts.map((part) => part.trim()).filter((part) => part !== "");
  if (found.length === 0) throw new InvalidArgument("no broker address given", { reason: "invalid_address" });
  return [...new Set(found.map((text) => resolve(text, fallback)))];
}

function resolve(text: string, example: string): string {
  const address = text.includes("://") ? text : `tcp://${text}`;
  const [scheme, rest] = address.split("://", 2) as [string, string];
  const port = /^.+:(\d{1,5})$/.exec(rest)?.[1];
  const isGood = scheme === "tcp" ? port !== undefined && Number(port) > 0 && Number(port) < 65_536 : rest !== "";
  if (isGood) return address;
  const message = `${JSON.stringify(text)} is no broker address; it looks like ${example}`;
  throw new InvalidArgument(message, { reason: "invalid_address" });
}
