"""Records the lines of the product that run in this process, as a data file of coverage.py.

Before Python 3.12, coverage.py traces every instruction of every library, which doubles the duration of a training.
SlipCover instruments the product's code only, and reports each line the first time that it runs in a process.
"""

import atexit
import os
from pathlib import Path

from coverage import CoverageData
from slipcover import FileMatcher, ImportManager, Slipcover

_ROOT = Path(__file__).parents[2]
_PRODUCT = [_ROOT / "operator", _ROOT / "trainer_image"]

# For SlipCover's own reports, and half of its cost in a process; coverage.py finds the lines of a file by itself.
Slipcover.lines_from_code = staticmethod(lambda _: ())
Slipcover.branches_from_code = staticmethod(lambda _: ())

_recorders = []


class Recorder:
    """The lines that ran, by the test during which they first ran."""

    def __init__(self, data_file):
        self._data_file = data_file
        self._lines = Slipcover(immediate=True)
        # A process that a test starts runs for this test.
        self._context = os.environ.get("PYTEST_CURRENT_TEST", "")
        self._recorded = []
        ImportManager(self._lines, FileMatcher(_PRODUCT)).__enter__()

    def switch_context(self, name):
        """Attribute the lines that run from now on to a test."""
        self._collect()
        self._context = name

    def forget(self):
        """In a forked process, leave the lines of its parent to the parent."""
        self._lines.newly_seen.clear()
        self._recorded.clear()

    def write(self):
        """Write what has been recorded since the last call. A process that is killed writes nothing."""
        self._collect()
        if self._recorded:
            data = CoverageData(basename=self._data_file, suffix=True)
            for context, lines in self._recorded:
                data.set_context(context)
                data.add_lines(lines)
            data.write()
            self._recorded.clear()

    def _collect(self):
        seen = self._lines._get_newly_seen()
        if seen:
            self._recorded.append((self._context, {name: set(lines) for name, lines in seen.items()}))


def start(data_file):
    """Record until the process exits, also with ``os._exit``, as workers do."""
    recorder = Recorder(data_file)
    _recorders.append(recorder)
    atexit.register(recorder.write)
    exit_at_once = os._exit

    def leave(status):
        recorder.write()
        exit_at_once(status)

    os._exit = leave
    os.register_at_fork(after_in_child=recorder.forget)


def switch_context(name):
    """Attribute the lines that run from now on to a test, if anything is recorded."""
    for recorder in _recorders:
        recorder.switch_context(name)
