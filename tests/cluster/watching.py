"""Record what `kubectl get` shows of a team's jobs while they run."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import kubectl, kubectl_process
from tests.cluster.tenant import Tenant


@dataclass(frozen=True)
class ObservedJob:
    """The final status of a job, and the rows and phases that `kubectl get` showed before."""

    status: dict[str, Any]
    rows: list[dict[str, str]]
    phases: list[str]


class Watcher:
    """Records the output of `kubectl get ftj` while jobs run."""

    def __init__(self, tenant: Tenant) -> None:
        self.rows: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.phases: dict[str, list[str]] = defaultdict(list)
        self._tenant = tenant
        self._over = threading.Event()
        # Polling could miss a short stage. A watch does not.
        columns = r'--output=jsonpath={.metadata.name} {.status.phase}{"\n"}'
        self._watch = kubectl_process("get", "ftj", "-n", tenant.name, "--watch", columns)
        self._threads = [threading.Thread(target=target) for target in (self._read, self._poll)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        self._watch.terminate()
        for thread in self._threads:
            thread.join()
        self._watch.wait()

    def _read(self) -> None:
        assert self._watch.stdout
        for line in self._watch.stdout:
            name, _, phase = line.rstrip("\n").partition(" ")
            if phase:
                self.phases[name].append(phase)

    def _poll(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()  # Poll once more for the final state.
            header, *lines = kubectl("get", "ftj", "-n", self._tenant.name).splitlines()
            starts = [header.index(column) for column in header.split()]
            for line in lines:
                cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
                row = dict(zip(header.split(), cells, strict=True))
                self.rows[row["NAME"]].append(row)
            time.sleep(1)
