"""Runs programs as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.sandbox import limits, scratch
from finetune_trainer.sandbox.process import Refused, run_program
from finetune_trainer.sandbox.programs import OnPrograms, Outcome, Program

_NOBODY = 65534
_LIFE_SECONDS = 1.0

_JANITOR = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
    "from finetune_trainer.sandbox.scratch import remove; sys.stdin.read(); remove(Path(sys.argv[2]))"
)
"""Removes the folder when its standard input ends, however this process has ended."""


class LocalSandbox:
    """Runs programs in processes that isolate themselves; a context manager.

    Args:
        parent: The folder in which programs get their own folders; by default that of the system.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent
        self._details: dict[str, str] = {}

    def __enter__(self) -> LocalSandbox:
        if sys.platform != "linux":
            raise _refusal(f"this is {sys.platform}")
        # Not below the workspace, because nobody may not reach it.
        self._root = Path(tempfile.mkdtemp(prefix="finetune-sandbox-", dir=self._parent))
        self._root.chmod(0o711)
        self._janitor = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _JANITOR, str(Path(__file__).parents[2]), str(self._root)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        at_once = max(1, min(limits.AT_ONCE, len(os.sched_getaffinity(0))))
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="sandbox")
        try:
            self._check()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        scratch.remove(self._root)
        self._janitor.communicate()

    @property
    def details(self) -> Mapping[str, str]:
        return self._details

    def submit(self, program: Program) -> Future[Outcome]:
        """Run ``program`` when there is room."""
        return self._threads.submit(self._run, program)

    def run(self, programs: Sequence[Program], on_programs: OnPrograms) -> list[Outcome]:
        """See `finetune_trainer.sandbox.programs.Sandbox`."""
        futures = [self.submit(program) for program in programs]
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_LIFE_SECONDS, return_when=FIRST_COMPLETED)
                on_programs(len(done))
        finally:
            for future in waiting:
                future.cancel()
        return [future.result() for future in futures]

    def _check(self) -> None:
        """Run an empty program, which shows whether and how this machine isolates programs."""
        outcome = self.submit(Program("", "")).result()
        if not outcome.passed:
            raise _refusal(f"a program without a line does not pass ({outcome.ending}: {outcome.detail})")

    def _run(self, program: Program) -> Outcome:
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            if os.geteuid() == 0:
                os.chown(folder, _NOBODY, _NOBODY)
            outcome, protection = run_program(program, folder)
        except Refused as error:
            raise _refusal(str(error)) from error
        finally:
            scratch.remove(folder)
        if protection:
            self._details["isolation"] = protection
        return outcome


def _refusal(why: str) -> StageFailure:
    return StageFailure(
        Reason.BAD_CONFIGURATION,
        f"evaluation.allowCodeExecution: this machine cannot isolate programs: {why}; run the job on Linux with "
        "seccomp, or without allowCodeExecution",
    )
