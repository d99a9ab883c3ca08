"""How several processes share the tests of the cluster out."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

_SERIAL = "tests/cluster/serial/"


class OneFileAtATime(LoadFileScheduling):
    """Each file is for one process, which gets it when it has nothing else to do: files take minutes.

    The folder of tests that would only wait for each other is for one process too.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _SERIAL if nodeid.startswith(_SERIAL) else super()._split_scope(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        """Give a process more to do when it begins with its last test: before that, it must know of another.

        One that begins with the soak gets nothing more: that would wait until the soak is over.
        """
        if node.shutting_down or self._pending_of(self.assigned_work[node]) > 1:
            return
        if not self.workqueue or _SERIAL in self.assigned_work[node]:
            node.shutdown()
        else:
            self._assign_work_unit(node)
