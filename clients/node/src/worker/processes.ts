/** The executors' processes: started, told, killed; what they say and that they ended is told to a listener. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { ChildConfig } from "./child.js";
import type { FromExecutor, ToExecutor } from "./messages.js";

export interface ProcessListener {
  started(executor: string, pid: number): void;
  said(executor: string, message: FromExecutor, body: Uint8Array): void;
  gone(executor: string, exit: string): void;
}

const CHILD = fileURLToPath(new URL("./child.js", import.meta.url));

export class Processes {
  private readonly children = new Map<string, ChildProcess>();

  constructor(
    private readonly config: ChildConfig,
    private readonly listener: ProcessListener,
  ) {}

  start(executor: string): void {
    const config = { ...this.config, place: `${this.config.place}/${executor.split("/").pop()}` };
    const child = fork(CHILD, [JSON.stringify(config)], {
      serialization: "advanced",
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      // Loaders and flags of the parent hold for its children, a debugger's port does not.
      execArgv: process.execArgv.filter((flag) => !/^--(inspect|test)/.test(flag)),
    });
    this.children.set(executor, child);
    let exit: string | undefined;
    let isRead = false;
    const look = (): void => {
      // Whatever it had said before its end is read before the end is told.
      if (exit === undefined || !isRead || !this.children.delete(executor)) return;
      this.listener.gone(executor, exit);
    };
    child.on("spawn", () => this.listener.started(executor, child.pid ?? 0));
    child.on("message", ({ message, body }: { message: FromExecutor; body: Uint8Array }) => {
      this.listener.said(executor, message, body);
    });
    child.on("disconnect", () => {
      isRead = true;
      look();
    });
    child.on("exit", (code, signal) => {
      exit = signal ?? String(code);
      look();
    });
    child.on("error", (error) => {
      if (child.pid !== undefined) return;
      exit = error.message;
      isRead = true;
      look();
    });
  }

  tell(executor: string, message: ToExecutor, body: Uint8Array): void {
    const child = this.children.get(executor);
    // A child that is going is told nothing more; that it went is what counts.
    if (child?.connected) child.send({ message, body }, () => undefined);
  }

  kill(executor: string): void {
    this.children.get(executor)?.kill("SIGKILL");
  }

  /** End all: they are asked, and killed after `graceMs`. */
  async stop(graceMs: number): Promise<void> {
    const ended = [...this.children.values()].map(
      (child) =>
        new Promise<void>((resolve) => {
          if (child.exitCode !== null || child.signalCode !== null) resolve();
          child.on("exit", () => resolve());
          if (child.connected) child.disconnect();
        }),
    );
    const timer = setTimeout(() => {
      for (const child of this.children.values()) child.kill("SIGKILL");
    }, graceMs);
    await Promise.all(ended);
    clearTimeout(timer);
  }
}
