import type { CloudFile } from "./api.ts";

// The server serves these under the usual name; `mime_type` keeps what was declared.
const USUAL: Record<string, string> = {
  "image/jpg": "image/jpeg",
  "image/pjpeg": "image/jpeg",
  "image/x-png": "image/png",
  "application/mp4": "video/mp4",
};
const PACKED = /\.(gz|tgz|svgz|bz2|xz|zst|z)$/i;

/** A file's true type, as the server tells it: usual names; compressed files are no pictures. */
export function typeOf(file: Pick<CloudFile, "mime_type" | "name">): string {
  if (PACKED.test(file.name)) return "application/octet-stream";
  const plain = (file.mime_type.split(";")[0] ?? "").trim().toLowerCase();
  return USUAL[plain] ?? plain;
}

/** The first half of it: `image`, `video`, `audio` … */
export function kindOf(file: Pick<CloudFile, "mime_type" | "name">): string {
  return typeOf(file).split("/")[0] ?? "";
}
