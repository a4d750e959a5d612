"""A client that does everything at random, and remembers what it was answered."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.harness import BOUNDARY
from tests.soak.model import Kept, Part, Small, Upload

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from tests.harness import Answer, Api

CHUNK = 64 << 10  # bytes: what age's blocks are cut by, so that encrypted uploads get it, too
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
TROUBLE = 500  # from here on a status is no promise; below, only 200 is expected


class Unanswered(Exception):
    """A request whose outcome its client does not know."""


@dataclass
class Client:
    """One person's objects and memory; ``run`` until the server is gone.

    Nobody else touches its objects, so that it knows the order of what it sent.
    """

    seed: int
    api: Api = field(init=False)
    uploads: list[Upload] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    acknowledged: int = 0
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; after a request that failed, do something else."""
        actions: list[tuple[Callable[[], None], int]] = [
            (self._chunked, 5),
            (self._resume, 3),
            (self._direct, 3),
            (self._batch, 1),
            (self._delete, 2),
        ]
        choices = [action for action, weight in actions for _ in range(weight)]
        while not stop.is_set():
            try:
                self._dice.choice(choices)()
            except Unanswered:
                stop.wait(0.01)

    # actions

    def _chunked(self) -> None:
        count = self._dice.randint(1, 5)
        last = self._dice.randint(1, CHUNK)
        size = (count - 1) * CHUNK + last
        password = self._password()
        asked: dict[str, Any] = {"file_name": "s", "file_size": size, "chunk_size": CHUNK}
        if password:
            asked["encrypt_password"] = password
        made = self._asked("POST", "/api/files/upload/create", json.dumps(asked).encode(), _JSON)
        upload = Upload(made["task_id"], CHUNK, [Part() for _ in range(count)], password)
        self.uploads.append(upload)
        sizes = [*[CHUNK] * (count - 1), last]
        for index in self._dice.sample(range(count), count):
            self.send(upload, index, self._dice.randbytes(sizes[index]))
        self._end(upload)

    def _resume(self) -> None:
        """Go on with an upload that is open: after a crash, or because it was left."""
        if not self.uploads:
            return
        upload = self._dice.choice(self.uploads)
        if self.fill(upload):
            self._end(upload)
        else:
            self.complete(upload)

    def _end(self, upload: Upload) -> None:
        if upload.password is None and self._dice.random() < 0.4:  # other bytes, to a side file
            index = self._dice.randrange(len(upload.parts))
            held = upload.parts[index].candidates()
            self.send(upload, index, self._dice.randbytes(len(held[0])))
        if self._dice.random() < 0.7:
            self.complete(upload)

    def _direct(self) -> None:
        content, password = self._content(), self._password()
        fields = {"encrypt_password": password} if password else {}
        file = self._asked("POST", "/api/files/upload/direct", _form(fields, "file", content), FORM)
        self.kept.append(Small(file["id"], content, password))

    def _batch(self) -> None:
        contents = [self._content() for _ in range(self._dice.randint(2, 10))]
        items = [
            {
                "file_name": str(at),
                "file_size": len(each),
                "hash": hashlib.sha256(each).hexdigest(),
            }
            for at, each in enumerate(contents)
        ]
        body = _form({"items": json.dumps(items)}, "content", b"".join(contents))
        answer = self._asked("POST", "/api/files/upload/batch", body, FORM)
        for content, result in zip(contents, answer["results"], strict=True):
            if result["file"] is not None:
                self.kept.append(Small(result["file"]["id"], content))
            elif result["error"]["status"] < TROUBLE:
                self.complaints.append(f"a file of a batch was refused: {result['error']}")

    def _delete(self) -> None:
        there = [each for each in self.kept if not each.deleting]
        if there:
            self.delete(self._dice.choice(there))

    # requests whose answers it remembers

    def send(self, upload: Upload, index: int, data: bytes) -> None:
        part = upload.parts[index]
        part.send(data)
        path = f"/api/files/upload/chunk/{upload.task}/{index}"
        if self._dice.random() < 0.5:
            self._call("PUT", path, data)
        else:
            self._call("POST", path, _form({}, "chunk", data), FORM)
        part.acknowledge()

    def complete(self, upload: Upload) -> None:
        file = self._asked("POST", f"/api/files/upload/complete/{upload.task}", b"")
        upload.file = file["id"]
        self.uploads.remove(upload)
        self.kept.append(upload)

    def fill(self, upload: Upload) -> bool:
        """Send what the server says is missing; whether the upload is open: a complete whose
        answer was lost may have closed it."""
        state = self.state(upload)
        size = state["file_size"]
        for index in state["missing_chunks"]:
            known = upload.parts[index].candidates()
            length = min(CHUNK, size - index * CHUNK)
            # An encrypted chunk has one content forever: the first that was sent.
            self.send(upload, index, known[-1] if known else self._dice.randbytes(length))
        return bool(state["status"] == "in_progress")

    def state(self, upload: Upload) -> Any:
        """Ask the server for an upload's chunks and status."""
        return self._call("GET", f"/api/files/upload/resume/{upload.task}").json()

    def delete(self, kept: Kept) -> None:
        kept.deleting = True
        self._call("DELETE", f"/api/files/{kept.file}")
        kept.deleted = True

    # helpers

    def _content(self) -> bytes:
        return self._dice.randbytes(self._dice.randint(1, 40_000))

    def _password(self) -> str | None:
        return "a password" if self._dice.random() < 0.15 else None

    def _asked(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> Any:
        return self._call(method, path, body, headers).json()

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer 200 or 204. Raises Unanswered for any other outcome."""
        try:
            answer = self.api.call(method, path, body, headers)
        except OSError as error:
            raise Unanswered from error
        if answer.status >= 300:
            if answer.status < TROUBLE:
                text = f"{method} {path.rsplit('/', 2)[0]} answers {answer.status} {answer.code}"
                self.complaints.append(text)
            raise Unanswered
        self.acknowledged += 1
        return answer


_JSON = {"Content-Type": "application/json"}


def _form(fields: Mapping[str, str], file: str, content: bytes) -> bytes:
    head = 'Content-Disposition: form-data; name="{}"{}\r\n\r\n'
    parts = [head.format(name, "").encode() + text.encode() for name, text in fields.items()]
    parts.append(head.format(file, '; filename="f"').encode() + content)
    opening = f"--{BOUNDARY}\r\n".encode()
    return b"".join(opening + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()
