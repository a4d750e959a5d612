import type Uppy from "@uppy/core";

/** What the README's example exports. */
export const uppy: Uppy;
