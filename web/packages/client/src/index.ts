export { Client, type ClientOptions } from "./client.ts";
export type { DownloadOptions } from "./download.ts";
export * from "./errors.ts";
export type { Asked, Query } from "./http.ts";
export type * from "./model.ts";
export type {
  BundleChanges,
  FileForm,
  FileOrder,
  FileRows,
  NewBundle,
  NewLink,
  ReadOptions,
  Rows,
  Walk,
} from "./resources.ts";
export type { Wait } from "./retry.ts";
export type {
  Phase,
  Progress,
  Source,
  Upload,
  Uploaded,
  UploadOptions,
} from "./upload.ts";

/** The version of this client. */
export const VERSION = "0.1.0";
