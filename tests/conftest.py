"""How several processes share the tests out."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

_ALONE = "tests/cluster/alone"


class FilesAndFolder(LoadFileScheduling):
    """A file is for one process; those that want the cluster alone are so all together: they wait for each other."""

    def _split_scope(self, nodeid: str) -> str:
        return _ALONE if nodeid.startswith(f"{_ALONE}/") else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return FilesAndFolder(config, log)
