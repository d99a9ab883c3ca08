"""The command of a module that generates a file: print it, or compare it with what is checked in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def print_or_check(module: str, description: str, text: str, arguments: Sequence[str] | None = None) -> int:
    """Carry out ``python -m module [--check FILE]`` for a module that generates ``text``; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with FILE instead of printing")
    options = parser.parse_args(arguments)
    if options.check is None:
        sys.stdout.write(text)
    elif not options.check.is_file() or options.check.read_text() != text:
        sys.stderr.write(f"{options.check} is out of date: python -m {module} > {options.check}\n")
        return 1
    return 0
