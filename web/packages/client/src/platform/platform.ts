/** What differs between browsers and Node; `#platform` is the one that runs. */

/** A request whose body is worth watching. */
export interface Sending {
  method: string;
  url: string;
  headers: Record<string, string>;
  body: Blob | FormData;
  signal: AbortSignal;
  /** Told how many bytes of the body went out so far, where that can be known. */
  onSent(bytes: number): void;
}

/** An answer whose body was read. */
export interface Answer {
  status: number;
  text: string;
  header(name: string): string | null;
}

export interface Hashing {
  signal: AbortSignal;
  /** Told how many bytes were hashed so far. */
  onHashed(bytes: number): void;
}

export interface Platform {
  /** Connections that bodies may use at once. */
  readonly maxConnections: number;
  /** Whether `send` tells `onSent` while this body is on its way. */
  watches(body: Blob | FormData): boolean;
  /** Send a body. Rejects with ConnectionFailed, or with the signal's reason. */
  send(sending: Sending): Promise<Answer>;
  /** The SHA-256 of `blob` in hex. Rejects with FileChanged, or with the signal's reason. */
  sha256(blob: Blob, hashing: Hashing): Promise<string>;
  /** The file at a path of this machine. Rejects with FileUnreadable. */
  open(path: string): Promise<File>;
  /** Where a download goes to. Rejects with TargetExists, or FileUnreadable. */
  target(path: string, id: string, overwrite: boolean): Promise<Target>;
  /** Resolves once the machine may have a network, and tells whether that took a while. */
  online(signal: AbortSignal): Promise<boolean>;
}

/** A file that is being downloaded, beside the place where it is going to be. */
export interface Target {
  /** Bytes that are there, perhaps from an earlier run. */
  readonly size: number;
  append(data: Uint8Array): Promise<void>;
  /** The digest in hex of what is there. */
  digest(algorithm: string): Promise<string>;
  /** Put it in its place, durably. */
  publish(): Promise<void>;
  discard(): Promise<void>;
  /** Leave what is there for another run. */
  close(): Promise<void>;
}
