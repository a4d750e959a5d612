import { useEffect, useState } from "preact/hooks";
import { type CloudFile, client, type Link } from "../api.ts";
import { count, exactly, until } from "../format.ts";
import { attempt, complain, tell } from "../state/toasts.ts";
import { Button, Choice, IconButton } from "../ui/basics.tsx";
import { Dialog } from "../ui/dialog.tsx";

const DAY = 24 * 3600; // seconds
const LIVES: readonly (readonly [string, string])[] = [
  [String(3600), "1 hour"],
  [String(DAY), "1 day"],
  [String(7 * DAY), "7 days"],
  [String(30 * DAY), "30 days"],
  [String(365 * DAY), "1 year"],
];
const LIMITS: readonly (readonly [string, string])[] = [
  ["", "Any number of times"],
  ["1", "Once"],
  ["3", "3 times"],
  ["10", "10 times"],
  ["100", "100 times"],
];

/** Copy an address, and say so. */
export async function copy(text: string, what = "Link"): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    tell(`${what} copied.`);
  } catch {
    // Only pages that came encrypted, or from this machine, may write to the clipboard.
    tell("This browser does not let the page copy: select the link and copy it yourself.");
  }
}

/** An address to be copied. */
export function Address({ url, label }: { url: string; label: string }) {
  return (
    <div class="address">
      <input readOnly value={url} aria-label={label} onFocus={(e) => e.currentTarget.select()} />
      <IconButton
        icon="copy"
        label={`Copy ${label.toLowerCase()}`}
        onClick={() => void copy(url)}
      />
    </div>
  );
}

/** The links of a file, and a new one. */
export function LinksDialog({ file, onClose }: { file: CloudFile; onClose: () => void }) {
  const [links, setLinks] = useState<readonly Link[]>([]);
  const [life, setLife] = useState(String(7 * DAY));
  const [limit, setLimit] = useState("");
  const load = () => client.links.list(file.id).then(setLinks).catch(complain);
  useEffect(() => void load(), []);
  const create = () =>
    attempt(async () => {
      const link = await client.links.create(file.id, {
        expiresIn: Number(life),
        maxDownloads: limit ? Number(limit) : undefined,
      });
      setLinks((all) => [link, ...all]);
      await copy(link.url);
    });
  const revoke = (link: Link) =>
    attempt(async () => {
      await client.links.revoke(link.id);
      setLinks((all) => all.filter((each) => each.id !== link.id));
    });
  return (
    <Dialog title={`Share ${file.name}`} onClose={onClose}>
      <p class="hint">
        Whoever has the link can download this file, without an account
        {file.is_encrypted ? "; they need its password too" : ""}.
      </p>
      <div class="pair">
        <Choice label="Works for" value={life} options={LIVES} onValue={setLife} />
        <Choice label="Can be used" value={limit} options={LIMITS} onValue={setLimit} />
      </div>
      <div class="dialog-foot">
        <Button kind="main" icon="link" onClick={() => void create()}>
          Create and copy a link
        </Button>
      </div>
      {links.length > 0 && (
        <ul class="links" aria-label="Links of this file">
          {links.map((link) => (
            <LinkRow key={link.id} link={link} onRevoke={() => void revoke(link)} />
          ))}
        </ul>
      )}
    </Dialog>
  );
}

function LinkRow({ link, onRevoke }: { link: Link; onRevoke: () => void }) {
  const left = link.downloads_left;
  return (
    <li>
      <Address url={link.url} label="Link" />
      <p class="facts">
        <span title={exactly(link.expires_at)}>Ends {until(link.expires_at)}</span>
        {left !== null && <span>{count(left, "download")} left</span>}
        <Button kind="quiet" onClick={onRevoke}>
          Revoke
        </Button>
      </p>
    </li>
  );
}
