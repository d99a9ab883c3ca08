"""What is ended when the making of a cluster is broken off."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import os, subprocess
from tests.cluster.daemons import descendants, end_descendants

shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
sleeper = int(shell.stdout.readline())
before = descendants(os.getpid())
assert before == {shell.pid, sleeper}, (before, shell.pid, sleeper)
end_descendants()
assert descendants(os.getpid()) == set()
shell.wait()  # It may have seen the end of its child before its own signal.
print(os.path.exists(f"/proc/{sleeper}/exe"))
"""


def test_children_and_what_they_have_started() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], check=False, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "False\n"), run.stderr
