/** A process that runs programs: its parent is the worker, and tells it what to run over the channel of `fork`. */
import { pathToFileURL } from "node:url";
import { Worker as Thread } from "node:worker_threads";
import { loadPrograms } from "./load.js";
import { ProgramRunner } from "./executor.js";
import type { FromExecutor, ToExecutor } from "./messages.js";

/** What the parent gives as the only argument, in JSON. */
export interface ChildConfig {
  module: string;
  place: string;
  profiles: readonly string[];
  beatMs: number;
}

const NO_BODY = new Uint8Array(0);

function say(message: FromExecutor, body: Uint8Array): Promise<void> | void {
  // The channel is closed when the parent has gone: then this process ends, too.
  if (!process.connected) return undefined;
  if (message.t === "started") return new Promise((resolve) => process.send?.({ message, body }, () => resolve()));
  process.send?.({ message, body });
  return undefined;
}

/** Whatever a program does to this process, even if it never yields again, it does not outlive its parent. */
function watchParent(): void {
  const resourceLimits = { maxYoungGenerationSizeMb: 1, maxOldGenerationSizeMb: 8, stackSizeMb: 1 };
  new Thread(new URL("./watch-parent.js", import.meta.url), { workerData: process.ppid, resourceLimits }).unref();
}

async function main(config: ChildConfig): Promise<void> {
  // A signal to the whole process group (Ctrl-C) is the worker's to handle.
  process.on("SIGINT", () => undefined);
  process.on("SIGTERM", () => undefined);
  process.on("disconnect", () => process.exit(0));
  watchParent();
  let runner: ProgramRunner;
  try {
    runner = new ProgramRunner(await loadPrograms(config.module), config, say);
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.send?.({ message: { t: "failed", message: text }, body: NO_BODY }, () => process.exit(1));
    return;
  }
  process.on("message", ({ message, body }: { message: ToExecutor; body: Uint8Array }) => {
    if (message.t === "bye") process.disconnect();
    else runner.hear(message, body);
  });
  setInterval(() => say({ t: "beat" }, NO_BODY), config.beatMs).unref();
  runner.begin();
}

const [, self, argument] = process.argv;
if (self !== undefined && import.meta.url === pathToFileURL(self).href && argument !== undefined) {
  await main(JSON.parse(argument) as ChildConfig);
}
