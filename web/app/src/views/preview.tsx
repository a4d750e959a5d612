import { useEffect, useState } from "preact/hooks";
import { type CloudFile, client } from "../api.ts";
import { bytes, when } from "../format.ts";
import { kindOf, typeOf } from "../kind.ts";
import { Button, IconButton } from "../ui/basics.tsx";
import { Dialog } from "../ui/dialog.tsx";
import { Icon } from "../ui/icons.tsx";

// What browsers draw by themselves; of other images the server's preview is shown.
const DRAWN = new Set(["image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"]);

/** Whether there is anything to see or hear of a file. */
export function isShown(file: CloudFile): boolean {
  if (file.is_encrypted) return false;
  const kind = kindOf(file);
  if (kind === "image") return file.has_compression || DRAWN.has(typeOf(file));
  return kind === "video" || kind === "audio";
}

interface PreviewProps {
  file: CloudFile;
  /** Among which one can go on. */
  files: readonly CloudFile[];
  onFile: (file: CloudFile) => void;
  onClose: () => void;
}

export function Preview({ file, files, onFile, onClose }: PreviewProps) {
  const shown = files.filter(isShown);
  const at = shown.findIndex((each) => each.id === file.id);
  const before = shown[at - 1];
  const after = at < 0 ? undefined : shown[at + 1];
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      // Recordings need these keys themselves.
      if (event.target instanceof HTMLMediaElement) return;
      const next = event.key === "ArrowLeft" ? before : event.key === "ArrowRight" ? after : null;
      if (next) onFile(next);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [before, after, onFile]);
  const tools = (
    <a
      class="icon-button"
      href={client.files.url(file.id, { download: true })}
      download
      aria-label={`Download ${file.name}`}
      title="Download"
    >
      <Icon name="download" />
    </a>
  );
  return (
    <Dialog title={file.name} kind="viewer" onClose={onClose} tools={tools}>
      <div class="stage">
        <IconButton
          icon="left"
          label="Previous"
          disabled={!before}
          onClick={() => before && onFile(before)}
        />
        <Content key={file.id} file={file} />
        <IconButton
          icon="right"
          label="Next"
          disabled={!after}
          onClick={() => after && onFile(after)}
        />
      </div>
      <p class="facts stage-facts">
        <span>{bytes(file.size)}</span>
        <span>{when(file.uploaded_at)}</span>
        {shown.length > 1 && at >= 0 && (
          <span>
            {at + 1} of {shown.length}
          </span>
        )}
      </p>
    </Dialog>
  );
}

function Content({ file }: { file: CloudFile }) {
  const [broken, setBroken] = useState(false);
  if (broken) return <Unplayable file={file} />;
  const fail = () => setBroken(true);
  const whole = client.files.url(file.id);
  switch (kindOf(file)) {
    case "video": {
      const poster = file.has_thumbnail
        ? client.files.url(file.id, { thumbnail: true })
        : undefined;
      return (
        // biome-ignore lint/a11y/useMediaCaption: people's own recordings have no captions
        <video
          class="content"
          src={whole}
          poster={poster}
          controls
          autoplay
          playsInline
          aria-label={file.name}
          onError={fail}
        />
      );
    }
    case "audio":
      return (
        // biome-ignore lint/a11y/useMediaCaption: people's own recordings have no captions
        <audio
          class="content"
          src={whole}
          controls
          autoplay
          aria-label={file.name}
          onError={fail}
        />
      );
    default: {
      const drawn = file.has_compression ? client.files.url(file.id, { preview: true }) : whole;
      return <img class="content" src={drawn} alt={file.name} onError={fail} />;
    }
  }
}

function Unplayable({ file }: { file: CloudFile }) {
  return (
    <div class="content unplayable">
      <Icon name="warning" />
      <p>This browser cannot show it.</p>
      <Button
        kind="main"
        icon="download"
        onClick={() => location.assign(client.files.url(file.id, { download: true }))}
      >
        Download
      </Button>
    </div>
  );
}
