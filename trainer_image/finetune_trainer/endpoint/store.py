"""Keeps the answers of an endpoint in the storage of a job, so that no question is asked twice.

The directory has JSON lines files. A run writes its answers to files of its own, each of which grows to `FULL` bytes
and is replaced as a whole, because object storage cannot append. A thread uploads answers as they arrive: a process
that is killed loses those of the last moment.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from types import TracebackType

from pydantic import ValidationError

from finetune_api.failures import StageFailure
from finetune_trainer import storage
from finetune_trainer.endpoint.messages import Answer
from finetune_trainer.storage.parallel import each

FULL = 1 << 20
"""Bytes of a file after which the next one begins."""
_PAUSE_SECONDS = 0.2
"""Between two uploads."""
_FILES_AT_ONCE = 8

log = logging.getLogger(__name__)


class AnswerStore:
    """A context manager: reads the stored answers at the start, and stores new ones until its end.

    Args:
        uri: Directory of the answers.

    Raises on entry and exit:
        StageFailure: The failures of storage.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._answers: dict[str, bytes] = {}
        """The line of each answer, by key."""
        self._run = secrets.token_hex(8)
        self._file = 0
        self._lines: list[bytes] = []
        """Of the file that grows."""
        self._dirty = False
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._closing = False
        self._failure: StageFailure | None = None
        self._thread = threading.Thread(target=self._upload, name="answers", daemon=True)

    def __enter__(self) -> AnswerStore:
        names = [path for path, _ in storage.list_files(self._uri) if path.endswith(".jsonl")]
        for content in each(lambda path: storage.read_bytes(storage.join(self._uri, path)), names, _FILES_AT_ONCE):
            for line in content.splitlines():
                if (key := _key(line)) is not None:
                    self._answers[key] = line
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        try:
            self.flush()
        except StageFailure:
            if error is None:
                raise
            log.warning("the last answers could not be stored in %s", self._uri)

    def get(self, key: str) -> Answer | None:
        """The answer with ``key``; None if there is none, or another version has stored it."""
        line = self._answers.get(key)
        try:
            return None if line is None else Answer.model_validate(json.loads(line)["answer"])
        except ValidationError:
            return None

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is uploaded soon.

        Raises:
            StageFailure: An earlier upload has failed. Nothing more should be asked, because it would be lost unless
                the last upload, at the end, succeeds.
        """
        line = json.dumps({"key": key, "answer": answer.model_dump(exclude_defaults=True)}).encode()
        with self._changed:
            self._answers[key] = line
            self._lines.append(line)
            self._dirty = True
            self._changed.notify()
        if self._failure:
            raise self._failure

    def flush(self) -> None:
        """Upload what is not uploaded yet.

        Raises:
            StageFailure: The failures of storage.
        """
        with self._writing:
            with self._changed:
                if not self._dirty:
                    return
                count, name = len(self._lines), f"{self._run}-{self._file:04d}.jsonl"
                content = b"".join(line + b"\n" for line in self._lines)
                self._dirty = False
            try:
                storage.write_bytes(storage.join(self._uri, name), content)
            except StageFailure:
                with self._changed:
                    self._dirty = True
                raise
            with self._changed:
                if len(content) >= FULL:
                    self._file, self._lines = self._file + 1, self._lines[count:]

    def _upload(self) -> None:
        while True:
            with self._changed:
                while not self._dirty and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
            try:
                self.flush()
            except StageFailure as failure:
                self._failure = failure
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, _PAUSE_SECONDS)


def _key(line: bytes) -> str | None:
    """The key of a stored answer; None if the line is damaged."""
    try:
        stored = json.loads(line)
    except ValueError:
        return None
    key = stored.get("key") if isinstance(stored, dict) and isinstance(stored.get("answer"), dict) else None
    return key if isinstance(key, str) else None
