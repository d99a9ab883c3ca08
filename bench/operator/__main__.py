"""``python -m bench.operator``. The docstring of the package describes what it measures."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import aiohttp
import psutil

import bench.operator
from bench.operator.burst import bursts, submit
from bench.operator.client import WaitTimeout
from bench.operator.pending import pending
from bench.operator.report import figure, log, minutes
from bench.operator.standing import PROGRESS_ADDRESS, finished, running
from bench.operator.testbed import Bench, ProcessEnded, Side
from tests.apiserver.api import Refused
from tests.apiserver.control_plane import NotStarted
from tests.tools import go_tool

_PARTS = ("submit", "burst", "pending", "running", "finished")
_BOTH = ("submit", "burst", "pending")
"""The parts of a comparison, unless ``--only`` names one."""
_REASON = re.compile(r'(?:"error":|err=)"((?:[^"\\]|\\.)*)"')
"""The error in the last line of a program's log."""
_LEAST_FREE_BYTES = 2 * 10**9
_OF_THE_ENVIRONMENT = (
    ProcessEnded,
    WaitTimeout,
    NotStarted,
    Refused,
    AssertionError,  # A wait timed out.
    RuntimeError,  # A program cannot be built.
    OSError,
    aiohttp.ClientError,
    subprocess.CalledProcessError,
)


class Unusable(Exception):
    """A requirement is missing; the message says which, in one sentence."""


def main() -> int:
    """Measure, and return the exit code."""
    options = _options()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        parts = [options.only] if options.only else list(_BOTH if options.against else _PARTS)
        sides = _sides(options)
        _check(parts, sides)
        _measure(options, parts, sides)
    except Unusable as error:
        return _failed(str(error))
    except _OF_THE_ENVIRONMENT as error:
        return _failed(_sentence(error))
    finally:
        _end_children()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.operator", description=bench.operator.__doc__.splitlines()[0]
    )
    parser.add_argument("--only", choices=_PARTS, help="run only this part")
    parser.add_argument(
        "--operator", metavar="PYTHON", help="the python of another checkout, whose operator is measured"
    )
    parser.add_argument("--against", metavar="PYTHON", help="measure a second operator, in alternation with the first")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, each with a burst and a floor")
    parser.add_argument("--jobs", type=int, default=500, help="number of jobs in a burst, and of pending jobs")
    parser.add_argument("--times", type=int, default=10, help="jobs submitted one after another in each round")
    parser.add_argument("--finished", type=int, default=100, help="number of finished jobs")
    parser.add_argument("--running", type=int, default=50, help="number of running jobs")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each measurement of a steady state")
    return parser.parse_args()


def _sides(options: argparse.Namespace) -> list[Side]:
    first = options.operator or sys.executable
    if not options.against:
        return [Side(first)]
    return [Side(first, "operator"), Side(options.against, "against")]


def _check(parts: list[str], sides: list[Side]) -> None:
    """Check all requirements before anything is built.

    Raises:
        Unusable: A requirement is missing.
    """
    if not shutil.which("go"):
        raise Unusable("go is not installed, and it builds etcd and kube-apiserver and their keys: install Go")
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < _LEAST_FREE_BYTES:
        raise Unusable(
            f"{tempfile.gettempdir()} has only {free / 1e9:.1f} GB free, etcd needs {_LEAST_FREE_BYTES / 1e9:.0f} GB; "
            "free some space, or set TMPDIR to another directory"
        )
    for side in sides:
        if not shutil.which(side.python):
            raise Unusable(f"{side.python} is not a program: give the python of a checkout, such as .venv/bin/python")
        found = subprocess.run([side.python, "-c", "import finetune_operator.app"], check=False, capture_output=True)
        if found.returncode:
            raise Unusable(f"{side.python} cannot import finetune_operator: run make install in its checkout")
    if "running" in parts:
        with socket.socket() as listener:
            try:
                listener.bind(PROGRESS_ADDRESS)
            except OSError:
                raise Unusable(
                    "port {1} of {0} is in use, and the progress of the pods is served there: stop the program that "
                    "listens on it".format(*PROGRESS_ADDRESS)
                ) from None


def _measure(options: argparse.Namespace, parts: list[str], sides: list[Side]) -> None:
    work: dict[str, Callable[[Bench], None]] = {
        "submit": lambda bench: submit(bench, sides, options.times, options.rounds),
        "burst": lambda bench: bursts(bench, sides, options.jobs, options.rounds),
        "pending": lambda bench: pending(bench, sides, options.jobs, options.seconds),
        "running": lambda bench: running(bench, sides, options.running, options.seconds),
        "finished": lambda bench: finished(bench, sides, options.finished, options.seconds),
    }
    log("starting etcd and kube-apiserver; the first run builds them, which takes some minutes")
    for name in ("etcd", "kube-apiserver"):
        go_tool(name)
    with tempfile.TemporaryDirectory(prefix="bench-operator-", ignore_cleanup_errors=True) as directory:
        testbed = Bench(Path(directory))
        try:
            testbed.start()
            times = {part: _seconds(part, options) * len(sides) for part in parts}
            estimates = ", ".join(f"{part} {minutes(seconds)}" for part, seconds in times.items())
            log(f"about {minutes(sum(times.values()))} on two idle cores: {estimates}")
            figure("cores", os.cpu_count() or 1, "cores", load_average=round(os.getloadavg()[0], 1))
            for part in parts:
                log(f"{part}: about {minutes(times[part])}")
                work[part](testbed)
            log("done")
        finally:
            testbed.close()


def _seconds(part: str, options: argparse.Namespace) -> float:
    """An estimate of the duration of a part for one operator, on two idle cores."""
    match part:
        case "submit":
            return options.rounds * (6 + 0.8 * options.times)
        case "burst":
            return options.rounds * (12 + 0.06 * options.jobs)
        case "pending":
            return 45 + 0.06 * options.jobs + 4 * options.seconds
        case "running":
            return 50 + 0.15 * options.running + options.seconds
        case _:
            return 20 + 0.2 * options.finished + options.seconds


def _stop(number: int, _: FrameType | None) -> None:
    # Do not interrupt the clean-up, which takes a second.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_children() -> None:
    """Kill child processes that were still starting."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _sentence(error: BaseException) -> str:
    """The first line of an error message, and the end of the log that may follow."""
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        output = error.stderr if isinstance(error.stderr, str) else error.stderr.decode(errors="replace")
        return f"{Path(str(error.cmd[0])).name} failed: {output.strip().splitlines()[-1][:500]}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if len(lines) == 1:
        return lines[0][:500]
    reason = _REASON.search(lines[-1])
    return f"{lines[0][:200]} {(reason[1] if reason else lines[-1].strip())[:500]}"


def _failed(sentence: str) -> int:
    print(f"bench.operator: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
