import { hostname } from "node:os";
import { resolveAddresses } from "../addresses.js";
import type { DspymqError } from "../errors.js";
import { InvalidArgument } from "../errors.js";
import { uuid7 } from "../ids.js";
import { zmqTransport } from "../link.js";
import { ClientCore } from "./core.js";
import { Driver } from "./driver.js";
import { EventStream } from "./event-stream.js";
import { Job, Stream } from "./job.js";
import { type Inputs, type ManyInputs, mapJobs } from "./map.js";
import { attachEvent, checkedMs, type JobOptions, submitEvent, type SubmitOptions } from "./options.js";
import type { Outputs, Prediction } from "./prediction.js";

export interface ClientOptions {
  /**
   * Where the brokers are, in the order in which they are tried; a text may name several, separated by commas.
   * Left out: the variable DSPYMQ_BROKER, else `tcp://127.0.0.1:5570`.
   */
  addresses?: string | readonly string[] | undefined;
  /** Who this is, for logs and for its fair share of slots: 1 to 64 printable ASCII characters. */
  name?: string | undefined;
  /** Options of jobs that do not say otherwise. */
  defaults?: JobOptions | undefined;
  /** How long what was never sent waits for a broker; left out: as long as its own timeout. */
  connectTimeoutMs?: number | undefined;
  /**
   * How long after a job's deadline the broker's own answer, which carries the usage, is waited for. Default 7,000: the
   * broker's grace for workers is 5 s by default, and a second.
   */
  deadlineSlackMs?: number | undefined;
  /** A token; reserved by the protocol. */
  auth?: string | undefined;
}

export interface RequestOptions {
  /** Default 10,000. */
  timeoutMs?: number | undefined;
  /** Ends the wait. */
  signal?: AbortSignal | undefined;
}

export interface MapOptions extends JobOptions {
  /** Jobs in flight at once. Default 16. */
  concurrency?: number | undefined;
  /** Yield the error of a job that failed in its place, instead of throwing it. */
  returnErrors?: boolean | undefined;
}

export const DEFAULT_ADDRESS = "tcp://127.0.0.1:5570";
const REQUEST_TIMEOUT_MS = 10_000;
const DEFAULT_SLACK_MS = 7_000;

/**
 * Calls DSPy programs that run in other processes.
 *
 * It connects when it is first used and looks after its connection by itself: jobs go on over lost connections and
 * restarted brokers, each under one id, and end once. One client serves a whole process. Call `close()`, or declare it
 * with `await using`: an open connection keeps the process alive.
 */
export class Client implements AsyncDisposable {
  /** The broker addresses, in the order in which they are tried. */
  readonly addresses: readonly string[];
  private readonly driver: Driver;
  private readonly defaults: JobOptions;

  constructor(options: ClientOptions = {}) {
    this.addresses = resolveAddresses(options.addresses, "DSPYMQ_BROKER", DEFAULT_ADDRESS);
    this.defaults = options.defaults ?? {};
    const name = options.name ?? defaultName();
    if (!/^[\x20-\x7e]{1,64}$/.test(name)) {
      throw new InvalidArgument("`name` must be 1 to 64 printable ASCII characters", { reason: "invalid_option" });
    }
    const { connectTimeoutMs, deadlineSlackMs = DEFAULT_SLACK_MS, auth } = options;
    const config = { addresses: this.addresses, name, auth, patience: { connectTimeoutMs, deadlineSlackMs } };
    this.driver = new Driver(new ClientCore(config, Math.random), zmqTransport);
  }

  /** The address in use, or tried last. */
  get address(): string {
    return this.driver.core.session.address;
  }

  /**
   * Run a program and wait for its outputs. `program` is a name, or a signature such as `"text -> name, age: int"`.
   *
   * Rejects with a DspymqError; with the reason of `signal`, after cancelling the job, when that is aborted.
   */
  async call<O extends Outputs = Outputs>(
    program: string,
    inputs: Inputs,
    options: JobOptions = {},
  ): Promise<Prediction<O>> {
    const merged = this.merged(options);
    merged.signal?.throwIfAborted();
    return this.start<O>(program, inputs, { ...merged, stream: false }).result(waitOf(merged));
  }

  /** Start a job and return at once. Aborting `signal` cancels it. */
  submit<O extends Outputs = Outputs>(program: string, inputs: Inputs, options: SubmitOptions = {}): Job<O> {
    const merged = this.merged(options);
    merged.signal?.throwIfAborted();
    return this.start(program, inputs, merged);
  }

  /** Run a program and iterate over its text as it is written. Leaving the loop cancels the job. */
  stream<O extends Outputs = Outputs>(program: string, inputs: Inputs, options: JobOptions = {}): Stream<O> {
    const merged = this.merged(options);
    merged.signal?.throwIfAborted();
    return new Stream(this.start<O>(program, inputs, { ...merged, stream: true }), merged.signal);
  }

  /** Join a job that is somewhere at the broker, without its inputs; another client of it is superseded. */
  attach<O extends Outputs = Outputs>(id: string, options: Omit<SubmitOptions, "id" | "resume"> = {}): Job<O> {
    const merged = this.merged(options);
    const opened = attachEvent(id, merged);
    const job = new Job<O>(this.driver, id, "", merged);
    this.driver.open(job.handle, opened);
    return job;
  }

  /**
   * The results for many inputs, in their order, with at most `concurrency` jobs in flight. The inputs are read as they
   * are needed. Throws the first error in that order; leaving the loop cancels what is open.
   */
  map<O extends Outputs = Outputs>(
    program: string,
    inputs: ManyInputs,
    options?: MapOptions & { returnErrors?: false },
  ): AsyncGenerator<Prediction<O>, void, undefined>;
  map<O extends Outputs = Outputs>(
    program: string,
    inputs: ManyInputs,
    options: MapOptions & { returnErrors: true },
  ): AsyncGenerator<Prediction<O> | DspymqError, void, undefined>;
  map<O extends Outputs = Outputs>(
    program: string,
    inputs: ManyInputs,
    options: MapOptions = {},
  ): AsyncGenerator<Prediction<O> | DspymqError, void, undefined> {
    const { concurrency = 16, returnErrors = false, ...rest } = options;
    const merged = this.merged(rest);
    const submit = (one: Inputs): Job<O> => this.start<O>(program, one, merged);
    return mapJobs(submit, inputs, concurrency, returnErrors, merged.signal);
  }

  /**
   * The broker's events from now on, of these kinds (`job.done`) or groups (`job`); none given: all. They are told
   * anew after a lost connection; `gap` then says that some may be missing.
   */
  events(...kinds: string[]): EventStream {
    const key = uuid7();
    const stream = new EventStream(this.driver, key);
    this.driver.subscribe(key, stream.handle, kinds);
    return stream;
  }

  /** The broker's answer to any method of SPEC.md section 10. */
  async request(method: string, params: Record<string, unknown> = {}, options: RequestOptions = {}): Promise<any> {
    const timeoutMs = checkedMs(options.timeoutMs ?? REQUEST_TIMEOUT_MS, "timeoutMs");
    return this.driver.ask(method, params, timeoutMs, options.signal);
  }

  /** The programs that workers offer. */
  async programs(options?: RequestOptions): Promise<ProgramRow[]> {
    return (await this.request("programs.list", {}, options)).programs;
  }

  /** One program, with its schemas as its worker describes them. */
  async program(name: string, options?: RequestOptions): Promise<ProgramDetails> {
    return this.request("programs.get", { name }, options);
  }

  /** The workers that the broker knows, their slots and what they do. */
  async workers(options?: RequestOptions): Promise<Record<string, any>[]> {
    return (await this.request("workers.list", {}, options)).workers;
  }

  /** Give a worker no more jobs; after `graceMs` it gives back what still runs. */
  async drainWorker(worker: string, graceMs = 30_000, options?: RequestOptions): Promise<Record<string, any>> {
    return this.request("workers.drain", { worker, grace_ms: graceMs }, options);
  }

  /** Give it jobs again. */
  async undrainWorker(worker: string, options?: RequestOptions): Promise<Record<string, any>> {
    return this.request("workers.undrain", { worker }, options);
  }

  /** The jobs that the broker has, oldest first. */
  async jobs(
    filter: { states?: string[]; program?: string; limit?: number } = {},
    options?: RequestOptions,
  ): Promise<{ jobs: Record<string, any>[]; truncated: boolean }> {
    return this.request("jobs.list", filter, options);
  }

  /** One job, without inputs and outputs. */
  async jobInfo(id: string, options?: RequestOptions): Promise<Record<string, any>> {
    return this.request("jobs.get", { job: id }, options);
  }

  /** Cancel a job, whoever is attached to it. */
  async cancelJob(id: string, options?: RequestOptions): Promise<Record<string, any>> {
    return this.request("jobs.cancel", { job: id }, options);
  }

  /** Run a finished job's content again, under a new id; `attach` to it for its result. */
  async retryJob(id: string, newJob: string = uuid7(), options?: RequestOptions): Promise<Record<string, any>> {
    return this.request("jobs.retry", { job: id, new_job: newJob }, options);
  }

  /** Forget a finished job now. */
  async dropJob(id: string, options?: RequestOptions): Promise<void> {
    await this.request("jobs.drop", { job: id }, options);
  }

  /** The broker's numbers. */
  async stats(options?: RequestOptions): Promise<Record<string, any>> {
    return this.request("stats.get", {}, options);
  }

  /** Say bye and close the connection; what is open fails with ClientClosed. */
  close(): Promise<void> {
    return this.driver.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private start<O extends Outputs>(program: string, inputs: Inputs, options: SubmitOptions): Job<O> {
    const id = options.id ?? uuid7();
    const opened = submitEvent(id, program, inputs, options);
    const job = new Job<O>(this.driver, id, program, options);
    this.driver.open(job.handle, opened);
    return job;
  }

  private merged<T extends JobOptions>(options: T): T {
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    return { ...this.defaults, ...Object.fromEntries(given) } as T;
  }
}

/** A row of `programs()`. */
export interface ProgramRow {
  name: string;
  /** The newest that is offered now; null while nobody offers it. */
  revision: string | null;
  revisions: string[];
  /** How many workers offer it now. */
  workers: number;
  description: string;
}

/** What `program()` gives; further keys are as its worker says. */
export interface ProgramDetails {
  name: string;
  revision: string | null;
  revisions: string[];
  workers: string[];
  description?: string;
  /** A JSON Schema. */
  inputs?: Record<string, any>;
  /** A JSON Schema, or null if it is not known. */
  outputs?: Record<string, any> | null;
  [key: string]: unknown;
}

function waitOf(options: JobOptions): { signal?: AbortSignal } {
  return options.signal === undefined ? {} : { signal: options.signal };
}

function defaultName(): string {
  return `node-${process.pid}@${hostname()}`.replace(/[^\x20-\x7e]/g, "?").slice(0, 64);
}
