"""How the cluster tests are distributed over several processes."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

_SERIAL = "tests/cluster/serial/"


class OneFileAtATime(LoadFileScheduling):
    """Assigns one file at a time to each idle process, because files take minutes.

    The folder ``serial``, whose tests would wait for each other, is assigned to one process as a whole.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _SERIAL if nodeid.startswith(_SERIAL) else super()._split_scope(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        """Assign the next file when a process starts its last test, which xdist requires to know the next one.

        A process that has ``serial`` gets nothing more: it would wait until the soak is over.
        """
        if node.shutting_down or self._pending_of(self.assigned_work[node]) > 1:
            return
        if not self.workqueue or _SERIAL in self.assigned_work[node]:
            node.shutdown()
        else:
            self._assign_work_unit(node)
