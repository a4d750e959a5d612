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
  /** Whether `send` tells `onSent` while a body is on its way. */
  readonly watchesBodies: boolean;
  /** Send a body. Rejects with ConnectionFailed, or with the signal's reason. */
  send(sending: Sending): Promise<Answer>;
  /** The SHA-256 of `blob` in hex. Rejects with FileChanged, or with the signal's reason. */
  sha256(blob: Blob, hashing: Hashing): Promise<string>;
  /** The file at a path of this machine. Rejects with FileUnreadable. */
  open(path: string): Promise<File>;
  /** Resolves once the machine may have a network, and tells whether that took a while. */
  online(signal: AbortSignal): Promise<boolean>;
}
