/** The Uppy uploader for an Upwell server. */

import {
  BasePlugin,
  type Body,
  EventManager,
  type Meta,
  type PluginOpts,
  type Uppy,
  type UppyFile,
} from "@uppy/core";
import { filterFilesToEmitUploadStarted, filterFilesToUpload } from "@uppy/core/utils";
import {
  ApiError,
  Client,
  type ClientOptions,
  type CloudFile,
  FileUnreadable,
  type Progress,
  type Upload,
  type Uploaded,
  type UploadOptions,
  VERSION,
  type Wait,
} from "@upwell/client";

const EVERY = 100; // milliseconds between two reports of a file's progress
const LONG = 4000; // milliseconds of waiting that a person is told of

/** What `response.body` of an uploaded file is: `new Uppy<Meta, UpwellBody>()`. */
export type UpwellBody = { file: CloudFile; existing: boolean };

/** Options that are the same for every file; `meta` of a file has the last word. */
type FileOptions = Pick<
  UploadOptions,
  "poolId" | "bundleId" | "expiresAt" | "expiresIn" | "chunkSize" | "patience"
>;

export interface UpwellOptions<M extends Meta, B extends Body>
  extends PluginOpts,
    Omit<ClientOptions, "uploads">,
    FileOptions {
  /** A client to share, in place of `server`, `token`, `fetch`, `connections` and `limit`. */
  client?: Client | undefined;
  /** Files that are sent at once. */
  limit?: number | undefined;
  /** Under which files are stored encrypted. Never in `meta`, which recovery plugins save. */
  password?: string | ((file: UppyFile<M, B>) => string | undefined) | undefined;
}

declare module "@uppy/core/utils" {
  export interface LocalUppyFile<M extends Meta, B extends Body> {
    /** What a restored upload goes on from. */
    upwell?: { token: string };
  }
}

declare module "@uppy/core" {
  export interface PluginTypeRegistry<M extends Meta, B extends Body> {
    Upwell: Upwell<M, B>;
  }
}

/** Hashes, sends, resumes and verifies; `uppy.use(Upwell, { server })`. */
export class Upwell<M extends Meta, B extends Body> extends BasePlugin<UpwellOptions<M, B>, M, B> {
  static VERSION: string = VERSION;
  readonly client: Client;
  readonly #running = new Set<string>();

  constructor(uppy: Uppy<M, B>, opts: UpwellOptions<M, B> = {}) {
    super(uppy, opts);
    this.type = "uploader";
    this.id = opts.id ?? "Upwell";
    this.client = opts.client ?? new Client({ ...opts, uploads: opts.limit });
    this.defaultLocale = {
      strings: {
        upwellHashing: "Reading…",
        upwellRemote: "Files of other services cannot be sent to Upwell; download it first.",
        upwellGhost: "Choose the file again to go on with its upload.",
      },
    };
    this.i18nInit();
  }

  override install(): void {
    this.#announce(true);
    this.uppy.addUploader(this.#upload);
    this.uppy.on("file-removed", this.#discard);
  }

  override uninstall(): void {
    this.#announce(false);
    this.uppy.removeUploader(this.#upload);
    this.uppy.off("file-removed", this.#discard);
  }

  #announce(resumableUploads: boolean): void {
    const { capabilities } = this.uppy.getState();
    const more = { resumableUploads, individualCancellation: true, uploadProgress: true };
    this.uppy.setState({ capabilities: { ...capabilities, ...more } });
  }

  readonly #upload = async (ids: string[]): Promise<void> => {
    const files = filterFilesToUpload(this.uppy.getFilesByIds(ids));
    this.uppy.emit("upload-start", filterFilesToEmitUploadStarted(files));
    await Promise.all(files.map((file) => this.#uploadFile(file)));
  };

  /** Resolves when the file was uploaded, has failed, or is gone. */
  async #uploadFile(file: UppyFile<M, B>): Promise<void> {
    const events = new EventManager(this.uppy);
    this.#running.add(file.id);
    try {
      const upload = this.client.upload(this.#sourceOf(file), this.#optionsOf(file));
      this.#follow(file.id, upload, events);
      this.#succeeded(file.id, await upload.done);
    } catch (error) {
      this.#failed(file.id, error);
    } finally {
      events.remove();
      this.#running.delete(file.id);
    }
  }

  /** Free what the server has of a file that failed, or was restored and never begun again. */
  readonly #discard = (file: UppyFile<M, B>): void => {
    const token = file.isRemote ? undefined : file.upwell?.token;
    if (!token || file.progress.uploadComplete || this.#running.has(file.id)) return;
    this.client.discard(token).catch((error) => this.uppy.log(error, "warning"));
  };

  #sourceOf(file: UppyFile<M, B>): Blob {
    if (file.isRemote) throw new FileUnreadable(this.i18n("upwellRemote"));
    if (!file.data) throw new FileUnreadable(this.i18n("upwellGhost"));
    return file.data;
  }

  #optionsOf(file: UppyFile<M, B>): UploadOptions {
    const { poolId, bundleId, chunkSize, patience, password } = this.opts;
    const told = file.meta as FileOptions;
    return {
      name: file.meta.name || file.name,
      type: file.type,
      poolId: told.poolId ?? poolId,
      bundleId: told.bundleId ?? bundleId,
      ...this.#endOf(told),
      password: typeof password === "function" ? password(file) : password,
      chunkSize,
      patience,
      token: file.isRemote ? undefined : file.upwell?.token,
      onToken: (token) => this.#remember(file.id, token),
      onProgress: this.#reporter(file.id),
      onWait: (wait) => this.#waits(file.id, wait),
    };
  }

  /** When a file is to be gone: as its `meta` says by either way, or as all of them. */
  #endOf(told: FileOptions): Pick<FileOptions, "expiresAt" | "expiresIn"> {
    const own = told.expiresAt !== undefined || told.expiresIn !== undefined;
    const { expiresAt, expiresIn } = own ? told : this.opts;
    return { expiresAt, expiresIn };
  }

  /** Do with the upload what people do with the file. */
  #follow(id: string, upload: Upload, events: EventManager<M, B>): void {
    const cancel = () => {
      upload.cancel().catch((error) => this.uppy.log(error, "warning"));
    };
    if (this.uppy.getFile(id)?.isPaused) upload.pause();
    events.onFileRemove(id, cancel);
    events.onCancelAll(id, cancel);
    events.onPause(id, (isPaused) => (isPaused ? upload.pause() : upload.resume()));
    events.onPauseAll(id, () => upload.pause());
    events.onResumeAll(id, () => upload.resume());
  }

  /** In the file's state, which Golden Retriever keeps. */
  #remember(id: string, token: string): void {
    if (this.uppy.getFile(id)) this.uppy.setFileState(id, { upwell: { token } });
  }

  #reporter(id: string): (progress: Progress) => void {
    let last = 0;
    let hashing = false;
    return ({ phase, bytes, total }) => {
      const file = this.uppy.getFile(id);
      const now = performance.now();
      if (!file || (now - last < EVERY && bytes < total && hashing === (phase === "hashing")))
        return;
      last = now;
      if (phase === "hashing") this.#hashes(file, bytes, total);
      else if (hashing) this.uppy.emit("preprocess-complete", file);
      hashing = phase === "hashing";
      if (!hashing) this.#progressed(id, bytes, total);
    };
  }

  #hashes(file: UppyFile<M, B>, bytes: number, total: number): void {
    this.uppy.emit("preprocess-progress", file, {
      mode: "determinate",
      message: this.i18n("upwellHashing"),
      value: total > 0 ? bytes / total : 1,
    });
  }

  #progressed(id: string, bytesUploaded: number, bytesTotal: number): void {
    const file = this.uppy.getFile(id);
    const uploadStarted = file.progress.uploadStarted ?? Date.now();
    this.uppy.emit("upload-progress", file, { uploadStarted, bytesUploaded, bytesTotal });
  }

  #waits(id: string, wait: Wait | null): void {
    const file = this.uppy.getFile(id);
    if (!file || !wait || wait.delay < LONG) return;
    this.uppy.emit("upload-stalled", { message: wait.error.message }, [file]);
  }

  #succeeded(id: string, uploaded: Uploaded): void {
    const body = { ...uploaded } as UpwellBody as unknown as B;
    const uploadURL = this.client.files.url(uploaded.file.id);
    const { size } = uploaded.file;
    const response = { status: 200, body, uploadURL, bytesUploaded: size };
    this.uppy.emit("upload-success", this.uppy.getFile(id), response);
  }

  /** A file that is gone was taken away by a person, who needs not be told. */
  #failed(id: string, error: unknown): void {
    const file = this.uppy.getFile(id);
    if (!file) return;
    if (file.progress.preprocess) this.uppy.emit("preprocess-complete", file);
    const told = error instanceof Error ? error : new Error(String(error));
    this.uppy.emit("upload-error", this.uppy.getFile(id), told, responseOf(told));
  }
}

function responseOf<B extends Body>(error: Error): { status: number; body: B } | undefined {
  if (!(error instanceof ApiError)) return undefined;
  const { code, meta, traceId } = error;
  return { status: error.status, body: { code, meta, traceId } as unknown as B };
}

export default Upwell;
