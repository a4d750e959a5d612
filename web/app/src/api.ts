import { Client } from "@upwell/client";

export type {
  Account,
  Bundle,
  CloudFile,
  FileOrder,
  Link,
  Page,
  Pool,
  Quota,
  Task,
} from "@upwell/client";
export { ApiError, ConnectionFailed } from "@upwell/client";

/** The server that this page came from, with the browser's session. */
export const client = new Client();
