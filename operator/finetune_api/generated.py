"""The command line of a module that generates a file: print the text, or check the committed file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def print_or_check(module: str, description: str, text: str, arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m module [--check FILE]`` for a module that generates ``text``.

    Returns:
        The exit code: 1 when FILE differs from ``text``, else 0.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with FILE instead of printing")
    options = parser.parse_args(arguments)
    if options.check is None:
        sys.stdout.write(text)
    elif not options.check.is_file() or options.check.read_text() != text:
        sys.stderr.write(f"{options.check} is out of date; run python -m {module} > {options.check}\n")
        return 1
    return 0
