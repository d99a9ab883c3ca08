"""What a program may use. The child process imports this module, so it needs nothing."""

from __future__ import annotations

WALL_SECONDS = 10
CPU_SECONDS = 8
MEMORY = 1 << 30
"""Bytes of address space of a process."""

FILE_SIZE = 16 << 20
"""Bytes of one file."""
OPEN_FILES = 64
"""With FILE_SIZE it bounds what deleted files can occupy, which nobody can count."""
SCRATCH = 64 << 20
"""Bytes of all files of a program."""
FILES = 1000
"""Files and folders of a program."""

OUTPUT = 8 << 20
"""Bytes on stdout and stderr together; they are discarded."""
THREADS = 128

AT_ONCE = 4
"""The most programs that run at the same time; fewer on a machine with fewer CPUs."""

SOURCE = 1 << 20
"""Characters of a program, and of its tests."""
DETAIL = 400
"""Characters of the sentence that says why a program failed."""
