/** One connection to one broker: a ZeroMQ DEALER. It belongs to whoever opened it and is never opened again. */
import { Dealer } from "zeromq";

export interface Link {
  /** Queue a message; what cannot be sent when the link ends is lost. */
  send(frames: Uint8Array[]): void;
  /** Octets that wait to be sent. */
  readonly waitingBytes: number;
  /** Close it; what was queued has `lingerMs` to leave. Resolves when it has, or the time is over. */
  close(lingerMs: number): Promise<void>;
}

export interface LinkListener {
  frames(frames: Uint8Array[]): void;
  /** The connection was refused or lost; told once, after everything that had come was read. */
  down(reason: string): void;
  /** All that waited has been handed to the socket. */
  drained?(): void;
}

export interface Transport {
  open(address: string, listener: LinkListener): Link;
}

/** A frame may be so long. */
export const MAX_FRAME_BYTES = 134_217_728;

/** After the end of a connection, what had come is read until nothing came for so long ... */
const QUIET_MS = 15;
/** ... but no longer than this. */
const DRAIN_MS = 1_000;

/** ZeroMQ's own attempts to reconnect begin later than that: this link is closed before. */
const RECONNECT_MS = 2_000;

export const zmqTransport: Transport = {
  open: (address, listener) => new ZmqLink(address, listener),
};

class ZmqLink implements Link {
  waitingBytes = 0;
  private readonly socket: Dealer;
  private queue: Uint8Array[][] = [];
  private pumping: Promise<void> | undefined;
  private closed = false;
  private lastFrameAt = 0;
  private isDown = false;

  constructor(
    address: string,
    private readonly listener: LinkListener,
  ) {
    this.socket = new Dealer({
      linger: 0,
      // With IMMEDIATE libzmq drops what has arrived and was not read yet when a connection ends. Without it a stale
      // message could reach a restarted broker; but this link is closed at the first loss, and nothing but hello is
      // sent before welcome. (A reconnect interval of -1 drops it as well.)
      immediate: false,
      reconnectInterval: RECONNECT_MS,
      maxMessageSize: MAX_FRAME_BYTES,
      sendHighWaterMark: 1_000,
      receiveHighWaterMark: 1_000,
      tcpKeepalive: 1,
      tcpKeepaliveIdle: 30,
      tcpKeepaliveInterval: 10,
      tcpKeepaliveCount: 3,
    });
    // Watched before connecting: a refusal may come at once.
    const { events } = this.socket;
    events.on("disconnect", () => this.ended("connection lost"));
    events.on("close", () => this.ended("connection refused"));
    events.on("connect:retry", () => this.ended("connection refused"));
    events.on("handshake:error:protocol", () => this.ended("handshake failed"));
    events.on("handshake:error:auth", () => this.ended("handshake failed"));
    events.on("handshake:error:other", () => this.ended("handshake failed"));
    try {
      this.socket.connect(address);
      void this.read();
    } catch (error) {
      this.ended(`${address}: ${(error as Error).message}`);
    }
  }

  send(frames: Uint8Array[]): void {
    if (this.closed) return;
    this.queue.push(frames);
    this.waitingBytes += size(frames);
    this.pumping ??= this.pump();
  }

  async close(lingerMs: number): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    if (lingerMs > 0) {
      this.socket.linger = lingerMs;
      if (this.pumping !== undefined) await within(this.pumping, lingerMs);
    }
    this.queue = [];
    this.socket.close();
  }

  private async read(): Promise<void> {
    try {
      for await (const frames of this.socket) {
        if (this.closed) return;
        this.lastFrameAt = performance.now();
        this.listener.frames(frames);
      }
    } catch (error) {
      // Only the socket's own end stops the reader; what a listener throws is a fault that must be seen.
      if (!this.socket.closed) throw error;
    }
  }

  /** The one writer: a second `send` beside one that is pending would throw EBUSY. */
  private async pump(): Promise<void> {
    try {
      for (let n = 0; n < this.queue.length; n += 1) {
        const frames = this.queue[n] as Uint8Array[];
        await this.socket.send(frames);
        this.waitingBytes -= size(frames);
        if (n >= 1_024) {
          this.queue.splice(0, n + 1);
          n = -1;
        }
      }
    } catch {
      // The socket was closed meanwhile.
    }
    this.queue = [];
    this.waitingBytes = 0;
    this.pumping = undefined;
    if (!this.closed) this.listener.drained?.();
  }

  private ended(reason: string): void {
    if (this.closed || this.isDown) return;
    this.isDown = true;
    const began = performance.now();
    const look = (): void => {
      if (this.closed) return;
      const now = performance.now();
      if (now - this.lastFrameAt < QUIET_MS && now - began < DRAIN_MS) setTimeout(look, QUIET_MS);
      else this.listener.down(reason);
    };
    // Events and messages come by different ways: what came before the end is still to be read.
    setTimeout(look, QUIET_MS);
  }
}

function size(frames: Uint8Array[]): number {
  return frames.reduce((sum, frame) => sum + frame.length, 0);
}

async function within(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, limit]);
  clearTimeout(timer);
}
