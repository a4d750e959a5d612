/** What was dropped: the files, and the paths of what could not be read. */
export interface Dropped {
  files: File[];
  unreadable: string[];
}

/**
 * Read what was dropped, folders with all that is in them. What cannot be read does not keep the
 * rest from arriving. A file from a folder carries its path there as `relativePath`, as Uppy's do.
 *
 * The items are taken before the first `await`: they are gone when the event is over.
 */
export async function dropped(transfer: DataTransfer): Promise<Dropped> {
  const found: Dropped = { files: [], unreadable: [] };
  const taken = Array.from(transfer.items, (item) => ({
    entry: item.webkitGetAsEntry(),
    file: item.getAsFile(),
  }));
  for (const { entry, file } of taken) {
    if (entry?.isDirectory) await read(entry, "", found);
    else if (file) found.files.push(file);
    else if (entry) found.unreadable.push(entry.name);
  }
  return found;
}

/** Read an entry of `folder`, which is empty for what was dropped itself. */
async function read(entry: FileSystemEntry, folder: string, found: Dropped): Promise<void> {
  const path = folder ? `${folder}/${entry.name}` : entry.name;
  try {
    if (entry.isDirectory) {
      await readFolder((entry as FileSystemDirectoryEntry).createReader(), path, found);
    } else {
      const file = await fileOf(entry as FileSystemFileEntry);
      found.files.push(Object.assign(file, { relativePath: path }));
    }
  } catch {
    found.unreadable.push(path);
  }
}

async function readFolder(
  reader: FileSystemDirectoryReader,
  path: string,
  found: Dropped,
): Promise<void> {
  for (;;) {
    // A part of them each time, and nothing at the end.
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => {
      reader.readEntries(resolve, reject);
    });
    if (!entries.length) return;
    for (const entry of entries) await read(entry, path, found);
  }
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => {
    entry.file(resolve, reject);
  });
}
