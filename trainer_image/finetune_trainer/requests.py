"""Answers one request of the CLI: JSON on standard input, JSON on standard output."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_api.failures import ExitCode, StageFailure


def respond(work: Callable[[bytes, Path], Mapping[str, Any]]) -> int:
    """Print the result of ``work``, which gets standard input and a scratch directory; returns the exit code.

    A StageFailure is printed as ``{"error": …}``. Whatever libraries print goes to standard error.
    """
    request = sys.stdin.buffer.read()
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
            answer, code = work(request, Path(scratch)), ExitCode.DONE
    except StageFailure as failure:
        answer, code = {"error": failure.message}, failure.reason.exit_code
    print(json.dumps(answer), file=out, flush=True)
    return code
