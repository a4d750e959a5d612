/** What the server tells, as it tells it. */

/** An instant, ISO 8601 in UTC. */
export type Instant = string;

/** A stored, verified file. Sizes are in bytes of the content. */
export interface CloudFile {
  id: string;
  name: string;
  description: string | null;
  /** What the content is: `kind`, `width`, `height`, `duration`, `thumbhash` …; empty until known. */
  file_meta: Record<string, unknown>;
  user_meta: Record<string, unknown>;
  sensitive_marks: string[];
  mime_type: string;
  /** Hex of the declared digest, or SHA-256. */
  hash: string;
  size: number;
  expired_at: Instant | null;
  uploaded_at: Instant;
  has_compression: boolean;
  has_thumbnail: boolean;
  is_encrypted: boolean;
  pool: PoolRef;
  pool_id: string;
  bundle_id: string | null;
  is_marked_recycle: boolean;
  storage_id: string;
  account_id: string;
  resource_identifier: string;
  created_at: Instant;
  updated_at: Instant;
  deleted_at: Instant | null;
}

export interface PoolRef {
  id: string;
  name: string;
}

/** Where bytes live, and under which policy; `null` is no limit. */
export interface Pool extends PoolRef {
  is_default: boolean;
  accept_types: string[];
  max_file_size: number | null;
  allow_encryption: boolean;
  allow_anonymous: boolean;
  public_usable: boolean;
  no_metadata: boolean;
  no_optimization: boolean;
  enable_recycle: boolean;
  quota: number | null;
  /** Seconds. */
  file_expiry: number | null;
  created_at: Instant;
  updated_at: Instant;
}

/** Files at one public address. */
export interface Bundle {
  id: string;
  slug: string;
  name: string;
  description: string | null;
  has_passcode: boolean;
  expired_at: Instant | null;
  files_count: number;
  url: string;
  created_at: Instant;
  updated_at: Instant;
}

/** A signed link: whoever has its `url` reads the file. */
export interface Link {
  id: string;
  file_id: string;
  url: string;
  expires_at: Instant;
  max_downloads: number | null;
  downloads_left: number | null;
  created_at: Instant;
}

/** Bytes of content; those that several files share count once. */
export interface Held {
  stored_bytes: number;
  /** By uploads in progress, whether or not they were sent. */
  reserved_bytes: number;
  total_bytes: number;
  files: number;
}

export interface Usage extends Held {
  /** Uploads in progress. */
  open_uploads: number;
  /** Bytes of `reserved_bytes` that were not sent yet. */
  unsent_bytes: number;
  pools: (Held & { pool: PoolRef })[];
}

/** What the caller may hold over all pools, in bytes; `null` is no limit. */
export interface Quota {
  quota: number | null;
  used: number;
  available: number | null;
  /** Bytes of `used` that uploads in progress have reserved. */
  reserved: number;
  max_open_uploads: number | null;
  max_unsent_bytes: number | null;
  pools: { pool: PoolRef; quota: number | null; used: number; reserved: number }[];
}

/** Who is logged in. */
export interface Account {
  id: string;
  name: string;
  scopes: string[];
}

export type TaskStatus = "in_progress" | "completed" | "cancelled" | "expired";

/** An upload as the server knows it. */
export interface Task {
  task_id: string;
  file_name: string;
  file_size: number;
  content_type: string;
  hash: string | null;
  pool_id: string;
  bundle_id: string | null;
  expired_at: Instant | null;
  status: TaskStatus;
  chunk_size: number;
  chunks_count: number;
  chunks_uploaded: number;
  uploaded_bytes: number;
  progress: number;
  file_id: string | null;
  created_at: Instant;
  updated_at: Instant;
  expires_at: Instant;
}

/** A task with the indices of its chunks, ascending. */
export interface TaskChunks extends Task {
  uploaded_chunks: number[];
  missing_chunks: number[];
}

/**
 * A page of a list; `total` counts the rows of all pages, `cursor` is the `after` of the next one
 * (`null` on the last).
 */
export interface Page<T> {
  items: T[];
  total: number;
  cursor: string | null;
}
