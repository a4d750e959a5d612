import { client } from "../api.ts";
import { bytes } from "../format.ts";
import { attempt } from "../state/toasts.ts";
import { transfers } from "../state/transfers.ts";
import { forget, forgotten, loadTasks, missing, tasks, type Waiting } from "../state/waiting.ts";
import { useStore } from "../store.ts";
import { Bar, Button } from "../ui/basics.tsx";
import { Icon } from "../ui/icons.tsx";

const ELSEWHERE_SECONDS = 20;

/** Unfinished uploads whose file has to be chosen again. */
export function WaitingList() {
  const known = useStore(tasks);
  const lost = useStore(forgotten);
  const here = useStore(transfers);
  const list = missing(known, lost, here);
  if (!list.length) return null;
  return (
    <div class="card waiting">
      <header class="summary">
        <div class="summary-text">
          <h2>Waiting for the file</h2>
          <p class="facts">
            These uploads are not finished. Drop or choose the same file again, and it goes on where
            it stopped.
          </p>
        </div>
      </header>
      <ul aria-label="Unfinished uploads">
        {list.map((each) => (
          <Row key={each.task?.task_id ?? `${each.size}/${each.name}`} waiting={each} />
        ))}
      </ul>
    </div>
  );
}

function isArriving({ task }: Waiting): boolean {
  if (!task) return false;
  return Date.now() - Date.parse(task.updated_at) < ELSEWHERE_SECONDS * 1000;
}

function story({ task, size }: Waiting): string {
  return task ? `${bytes(task.uploaded_bytes)} of ${bytes(size)} are here` : bytes(size);
}

function drop(waiting: Waiting): void {
  void attempt(async () => {
    const { task } = waiting;
    if (task) await client.request("DELETE", `/api/files/upload/${task.task_id}`);
    forget(waiting);
    await loadTasks();
  });
}

function Row({ waiting }: { waiting: Waiting }) {
  const { name, task } = waiting;
  const arriving = isArriving(waiting);
  return (
    <li class="transfer">
      <span class="thumb">
        <Icon name={arriving ? "upload" : "pause"} />
      </span>
      <div class="transfer-text">
        <p class="name">
          <bdi>{name}</bdi>
        </p>
        <p class="facts">
          {story(waiting)}
          {arriving && " · perhaps still being sent from elsewhere"}
        </p>
        {task && <Bar share={task.progress / 100} label={name} tone="calm" />}
      </div>
      <div class="transfer-tools">
        <Button kind="quiet" onClick={() => drop(waiting)} aria-label={`Cancel ${name}`}>
          Cancel
        </Button>
      </div>
    </li>
  );
}
