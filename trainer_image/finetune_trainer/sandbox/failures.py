"""Why a program failed, in one line for people, from what its process says. That is not to be trusted."""

from __future__ import annotations

import errno
import json
import re
import signal
from typing import Any

from finetune_api.text import clean
from finetune_trainer.sandbox import limits
from finetune_trainer.sandbox.programs import Ending, Outcome, Program

_FULL = (errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT)
_NO_THREAD = "can't start new thread"
_LINE_LENGTH = 160
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
"""What Python counts as the end of a line; str.splitlines knows more."""
_EXPLAINED = {
    "MemoryError": f"a program has {limits.MEMORY >> 30} GiB",
    "ModuleNotFoundError": "programs have only Python's standard library",
}
"""What people need to know besides the message of an exception, by its type."""


def failure(reported: bytes, program: Program) -> Outcome:
    """The outcome of a program whose process reported ``reported``: see ``_described`` in `child.main`."""
    report = _parsed(reported)
    kind, message = _text(report, "type"), _text(report, "message")
    if not kind:
        return Outcome(Ending.EXITED, "the process ended before the last test had run")
    what = f"{kind}{_where(report, program)}"
    message = "; ".join(part for part in (message, _EXPLAINED.get(kind)) if part)
    return Outcome(_ending(kind, message, report), _clipped(f"{what}: {message}" if message else what, limits.DETAIL))


def end_of_process(code: int, cpu_seconds: float) -> Outcome:
    """The outcome of a program whose process ended by itself, before the last test had run, and said nothing.

    Args:
        code: The exit code, or the negative number of a signal.
        cpu_seconds: The CPU time that the process has used.
    """
    if code in (-signal.SIGXCPU, -signal.SIGKILL) and cpu_seconds >= limits.CPU_SECONDS - 1:
        return Outcome(Ending.TIME, f"the program used more than {limits.CPU_SECONDS} s of CPU time")
    if code == -signal.SIGKILL:
        return Outcome(Ending.MEMORY, "the process was killed, as if memory was short")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Outcome(Ending.EXITED, f"{name} ended the process before the last test had run")
    return Outcome(Ending.EXITED, f"the process ended with code {code} before the last test had run")


def why_refused(reported: bytes) -> str:
    """Why the process could not isolate itself."""
    report = _parsed(reported)
    kind, message = _text(report, "type"), _text(report, "message")
    if kind == "CannotIsolate":
        return message
    return f"{kind}: {message}" if kind else "the process that isolates programs cannot start"


def _ending(kind: str, message: str, report: dict[str, Any]) -> Ending:
    if report.get("exit") is True:
        return Ending.EXITED
    if kind == "MemoryError" or report.get("errno") == errno.ENOMEM:
        return Ending.MEMORY
    if report.get("errno") in _FULL:
        return Ending.FILES
    # The error of fork under a filter; see `child.seccomp`.
    if report.get("errno") == errno.EAGAIN or (kind == "RuntimeError" and message.startswith(_NO_THREAD)):
        return Ending.PROCESSES
    return Ending.FAILED


def _where(report: dict[str, Any], program: Program) -> str:
    """`` in line 2 of the tests (assert double(0) == 0)``."""
    found = ""
    for name, source in (("program", program.code), ("tests", program.tests)):
        number = report.get(name)
        lines = _LINE_BREAK.split(source)
        if isinstance(number, int) and 1 <= number <= len(lines):
            found += f"{', called from' if found else ' in'} line {number} of the {name}"
            if line := _clipped(lines[number - 1].strip(), _LINE_LENGTH):
                found += f" ({line})"
    return found


def _parsed(reported: bytes) -> dict[str, Any]:
    try:
        report = json.loads(reported)
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _text(report: dict[str, Any], name: str) -> str:
    value = report.get(name)
    return _clipped(value, limits.DETAIL) if isinstance(value, str) else ""


def _clipped(text: str, longest: int) -> str:
    text = clean(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
