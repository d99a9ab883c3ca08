"""A worker process: runs a stage, and reports its result or failure as an event and an exit code."""

from __future__ import annotations

import ctypes
import errno
import importlib
import logging
import os
import re
import shutil
import signal
import sys
import traceback
from pathlib import Path

from finetune_api.events import FailureEvent, ResultEvent
from finetune_api.failures import ExitCode, Reason, StageFailure
from finetune_api.stage import StageConfig
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.exceptions import first_line
from finetune_trainer.storage.credentials import use_secrets

_FULL_BELOW_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_BROKEN_CONNECTION = re.compile(
    r"(?:gloo|nccl).*?(connection (?:reset|closed|refused)[\w ]*|broken pipe|remote process exited)", re.I | re.S
)
"""Error messages of Gloo and NCCL for a broken connection."""
_COMPILER_ERRORS = ("BackendCompilerFailed", "InductorError", "TorchRuntimeError", "Unsupported")
"""Exceptions of torch._dynamo and torch._inductor, which are imported only with training.compile."""
STAGE_MODULE = "finetune_trainer.stages.{stage}"


def failure_of(error: BaseException, workspace: Path) -> StageFailure:
    """Convert any exception into a StageFailure with a reason and a message.

    Libraries report a full disk with many different errors. Therefore this function also checks the free space of the
    disk that contains ``workspace``.
    """
    if isinstance(error, StageFailure):
        return error
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or _is_full(workspace):
        return StageFailure(
            Reason.DISK_FULL,
            f"the disk that contains {workspace} is full: increase the size of its volume",
        )
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return StageFailure(
            Reason.OUT_OF_MEMORY,
            f"out of memory ({first_line(error, 'no message')}): lower training.maxBatchSizePerDevice or "
            "training.maxSequenceLength, raise distributed.zero.stage, or set training.activationCheckpointing to true",
        )
    if type(error).__name__ in _COMPILER_ERRORS:
        return StageFailure(
            Reason.BAD_CONFIGURATION,
            f"the model cannot be compiled ({first_line(error)}): set training.compile to false",
        )
    if broken := _BROKEN_CONNECTION.search(str(error)):
        return StageFailure(
            Reason.INTERNAL_ERROR,
            f"the connection to another rank broke ({broken[1]}), usually because that rank or its node failed: see "
            "the logs of the other workers",
        )
    return StageFailure(
        Reason.INTERNAL_ERROR,
        f"{type(error).__name__}: {first_line(error, 'no message')} (see the log for the traceback)",
    )


def _is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < _FULL_BELOW_BYTES
    except OSError:
        return False


def _die_with_host() -> None:
    """Let the kernel kill this process when the host process ends, so that no orphan continues to train."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(config_path: str) -> int:
    """Run the stage with the StageConfig in the file ``config_path``.

    Returns:
        The exit code.
    """
    _die_with_host()
    # There is no state to save yet; train installs its own handler later. A Python handler could only run on the main
    # thread, which may be blocked in a library that waits for other ranks.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The host receives Ctrl-C too, and sends SIGTERM.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    config = StageConfig.model_validate_json(Path(config_path).read_bytes())
    use_secrets(config.spec, os.environ)
    rank = int(os.environ.get("RANK", "0"))
    reporter = Reporter.from_environment()
    workspace = Path(config.workspace) / f"rank{rank}"
    workspace.mkdir(parents=True, exist_ok=True)
    try:
        stage = importlib.import_module(STAGE_MODULE.format(stage=config.stage))
        result = stage.run(StageContext(config=config, workspace=workspace, reporter=reporter))
    except BaseException as error:
        failure = failure_of(error, workspace)
        if failure is not error:
            traceback.print_exception(error)
        reporter.send(
            FailureEvent(
                reason=failure.reason,
                message=failure.message,
                retry_after=failure.retry_after,
                progressed=failure.progressed,
            )
        )
        return failure.exit_code
    if rank == 0:
        reporter.send(ResultEvent(result=result))
    return ExitCode.DONE


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    # Skip the shutdown of the interpreter, which hangs in collectives if another rank has exited early.
    os._exit(code)
