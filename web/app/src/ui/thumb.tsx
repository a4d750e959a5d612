import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { thumbHashToDataURL } from "thumbhash";
import type { CloudFile } from "../api.ts";
import { client } from "../api.ts";
import { extension } from "../format.ts";
import { kindOf } from "../kind.ts";
import { Icon, type IconName } from "./icons.tsx";

function hashOf(file: CloudFile): string | null {
  const hash = file.file_meta["thumbhash"];
  if (typeof hash !== "string") return null;
  return thumbHashToDataURL(Uint8Array.from(atob(hash), (letter) => letter.charCodeAt(0)));
}

/** What kind of recording or document it is, by its type. */
export function iconOf(file: CloudFile): IconName {
  if (file.is_encrypted) return "lock";
  const kind = kindOf(file);
  return kind === "video" || kind === "audio" ? kind : "file";
}

/** A small picture of a file, or a tile that says what it is. */
export function Thumb({ file }: { file: CloudFile }) {
  const box = useRef<HTMLSpanElement>(null);
  const [broken, setBroken] = useState(false);
  const placeholder = hashOf(file);
  useLayoutEffect(() => {
    if (placeholder) box.current?.style.setProperty("background-image", `url(${placeholder})`);
  }, [placeholder]);
  const pictured = file.has_thumbnail && !broken;
  const word = extension(file.name);
  return (
    <span class="thumb" ref={box}>
      {pictured && (
        <img
          src={client.files.url(file.id, { thumbnail: true })}
          alt=""
          loading="lazy"
          decoding="async"
          width="48"
          height="48"
          onError={() => setBroken(true)}
        />
      )}
      {!pictured && !placeholder && (
        <>
          <Icon name={iconOf(file)} />
          {word && <span class="thumb-word">{word}</span>}
        </>
      )}
      {pictured && kindOf(file) === "video" && (
        <span class="thumb-play">
          <Icon name="play" />
        </span>
      )}
    </span>
  );
}
