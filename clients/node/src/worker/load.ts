import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { makePrograms, type Program, type Programs } from "./programs.js";

/**
 * The programs of a module: its export `programs`, or its default export. The revisions depend on the text of the
 * module, too. Throws TypeError.
 */
export async function loadPrograms(url: string): Promise<Map<string, Program>> {
  const loaded = (await import(url)) as { programs?: Programs; default?: Programs };
  const programs = loaded.programs ?? loaded.default;
  if (programs === undefined) throw new TypeError(`${url} exports neither \`programs\` nor a default`);
  const text = url.startsWith("file:") ? await readFile(fileURLToPath(url), "utf8") : url;
  return makePrograms(programs, text);
}
