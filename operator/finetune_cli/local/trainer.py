"""Asks the trainer, which this program may not import, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune_api.failures import ExitCode
from finetune_cli.local.errors import LocalError


def trainer_command(command: str, extra: str = "trainer") -> tuple[str, ...]:
    """The command that starts the trainer.

    Args:
        command: What needs it, such as ``finetune run``.
        extra: The extra that it needs: ``trainer``, or ``data``, which has no torch.

    Raises:
        LocalError: The trainer is not installed.
    """
    needed = {"trainer": ("finetune_trainer", "torch"), "data": ("finetune_trainer", "obstore")}[extra]
    if any(find_spec(module) is None for module in needed):
        raise LocalError(
            f"{command} needs the trainer; install it with pip install 'finetune-operator[cli,{extra}]'.",
            ExitCode.BAD_CONFIGURATION,
        )
    # -P: a file in the working directory must not shadow a library.
    return (sys.executable, "-P", "-m", "finetune_trainer")


def ask(
    command: str,
    request: Mapping[str, Any],
    extra: str = "trainer",
    question: str | None = None,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """The answer of the trainer to a request of ``finetune <command>``.

    Args:
        command: The command that asks.
        request: What it asks.
        extra: The extra that the answer needs.
        question: The command of the trainer, if it has another name.
        scratch: Directory for its temporary files, which the caller removes even if the trainer is killed; default:
            that of the system.

    Raises:
        LocalError: The trainer is not installed, or its answer is an error.
    """
    process = subprocess.run(
        [*trainer_command(f"finetune {command}", extra), question or command],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=False,
        env=None if scratch is None else {**os.environ, "TMPDIR": str(scratch)},
    )
    try:
        answer = dict(json.loads(process.stdout))
    except ValueError:
        lines = process.stderr.decode(errors="replace").strip().splitlines()
        raise LocalError(
            f"finetune_trainer {command} ended with exit code {process.returncode}"
            + (f": {lines[-1][:300]}" if lines else "; it printed nothing."),
            ExitCode.INTERNAL,
        ) from None
    if "error" in answer:
        raise LocalError(str(answer["error"]), _exit_code(process.returncode))
    return answer


def _exit_code(code: int) -> ExitCode:
    return ExitCode(code) if code in set(ExitCode) else ExitCode.INTERNAL
