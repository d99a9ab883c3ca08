"""How several processes share the tests out."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

_SERIAL = "tests/cluster/serial/"


class FilesAndAFolder(LoadFileScheduling):
    """Each file is for one process, and that folder is: its tests would only wait for each other."""

    def _split_scope(self, nodeid: str) -> str:
        return _SERIAL if nodeid.startswith(_SERIAL) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return FilesAndAFolder(config, log)
