"""How several processes share the tests out."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Tests and their stages share the cores, and tiny models gain nothing by a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long one example takes says something about the machine only.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_SERIAL, _UNIT = "tests/cluster/serial/", "tests/unit/"


class FilesAndAFolder(LoadFileScheduling):
    """Each file is for one process, and that folder is: its tests would only wait for each other."""

    def _split_scope(self, nodeid: str) -> str:
        return _SERIAL if nodeid.startswith(_SERIAL) else super()._split_scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """After that folder, a process gets what takes no time.

        It gets it while it still has two tests of the folder to do, and what it gets waits for the soak to end.
        """
        if _SERIAL in self.assigned_work[node]:
            small = next((scope for scope in self.workqueue if scope.startswith(_UNIT)), None)
            if small:
                self.workqueue.move_to_end(small, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return FilesAndAFolder(config, log) if config.getoption("dist") == "loadfile" else None
