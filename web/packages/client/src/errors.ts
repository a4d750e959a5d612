/**
 * What can go wrong.
 *
 *     UpwellError                 every failure below; has a stable `code`
 *     ├── ApiError                the server answered with an error
 *     ├── ConnectionFailed        no answer: refused, reset, stalled
 *     │   └── PatienceOver        it kept failing for longer than the caller wanted to wait
 *     ├── UnexpectedAnswer        an answer that is not Upwell's: another server, a login page
 *     ├── ContentMismatch         the bytes here and there differ
 *     ├── TokenInvalid            this is not the token of an upload
 *     ├── Cancelled               the caller asked to stop
 *     └── FileUnreadable          the local file cannot be read or written
 *         ├── FileChanged         it was modified or removed while it was being sent
 *         └── TargetExists        the download's target is already there
 */

const RETRYABLE_STATUSES = new Set([408, 425, 429, 500, 502, 503, 504, 507]);
// Refusals of one attempt, not of the upload: another request took over the chunk, or the
// connection was too slow or cut before the body was complete.
const RETRYABLE_CODES = new Set([
  "CHUNK_BUSY",
  "CHUNK_SUPERSEDED",
  "CHECKSUM_MISMATCH",
  "BODY_TIMEOUT",
  "BODY_TRUNCATED",
]);

/** A failure with a stable `code` and a message for a person. */
export class UpwellError extends Error {
  override readonly name: string = "UpwellError";
  readonly code: string = "CLIENT_ERROR";
  /** Whether the same request may succeed later. */
  readonly retryable: boolean = false;
}

/** The fields of an error answer, with what its headers added. */
export interface Refusal {
  code: string;
  message: string;
  status: number;
  meta: Record<string, unknown>;
  /** What is wrong with each field of the request. */
  errors: Record<string, string[]>;
  /** Names the request in the server's log. */
  traceId: string | null;
  /** Seconds that the server asks to wait. */
  retryAfter: number | null;
}

/** The server answered with an error. */
export class ApiError extends UpwellError {
  override readonly name = "ApiError";
  override readonly code: string;
  override readonly retryable: boolean;
  readonly status: number;
  readonly meta: Record<string, unknown>;
  readonly errors: Record<string, string[]>;
  readonly traceId: string | null;
  readonly retryAfter: number | null;

  constructor(refusal: Refusal) {
    super(refusal.message);
    this.code = refusal.code;
    this.status = refusal.status;
    this.meta = refusal.meta;
    this.errors = refusal.errors;
    this.traceId = refusal.traceId;
    this.retryAfter = refusal.retryAfter;
    this.retryable = RETRYABLE_STATUSES.has(refusal.status) || RETRYABLE_CODES.has(refusal.code);
  }
}

/** No answer arrived: whether the request took effect is unknown. */
export class ConnectionFailed extends UpwellError {
  override readonly name: string = "ConnectionFailed";
  override readonly code: string = "CONNECTION_FAILED";
  override readonly retryable: boolean = true;
}

/** Requests kept failing until the caller's patience ended; `cause` is the last failure. */
export class PatienceOver extends ConnectionFailed {
  override readonly name = "PatienceOver";
  override readonly code = "PATIENCE_OVER";
  override readonly retryable = false;
}

/** The answer is not one that an Upwell server gives. */
export class UnexpectedAnswer extends UpwellError {
  override readonly name = "UnexpectedAnswer";
  override readonly code = "UNEXPECTED_ANSWER";
}

/** The content here and on the server differ. */
export class ContentMismatch extends UpwellError {
  override readonly name = "ContentMismatch";
  override readonly code = "CONTENT_MISMATCH";
}

/** What was given as the token of an upload is none. */
export class TokenInvalid extends UpwellError {
  override readonly name = "TokenInvalid";
  override readonly code = "UPLOAD_TOKEN_INVALID";
}

/** The caller asked to stop. */
export class Cancelled extends UpwellError {
  override readonly name = "Cancelled";
  override readonly code = "CANCELLED";
}

/** The local file cannot be read or written. */
export class FileUnreadable extends UpwellError {
  override readonly name: string = "FileUnreadable";
  override readonly code: string = "FILE_UNREADABLE";
}

/** The file was modified or removed while it was being sent. */
export class FileChanged extends FileUnreadable {
  override readonly name = "FileChanged";
  override readonly code = "FILE_CHANGED";
}

/** The download's target is already there. */
export class TargetExists extends FileUnreadable {
  override readonly name = "TargetExists";
  override readonly code = "TARGET_EXISTS";
}
