"""Messages for unexpected exceptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.failures import Reason
from finetune_trainer.worker import failure_of

GLOO = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.44.0.2]:41683: Connection "
    "reset by peer. This is typically caused by a remote worker hanging or bugs in the application. GLHF! 🏖️"
)
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:2005, remote process exited or there was a network error, NCCL version 2.26"


@pytest.mark.parametrize(
    ("error", "quoted"), [(GLOO, "Connection reset by peer"), (NCCL, "remote process exited")], ids=["gloo", "nccl"]
)
def test_a_broken_connection_has_a_readable_message(tmp_path: Path, error: str, quoted: str) -> None:
    failure = failure_of(RuntimeError(error), tmp_path)
    assert failure.reason is Reason.INTERNAL_ERROR
    assert failure.message.startswith(f"the connection to another rank broke ({quoted})")


def test_other_exceptions_are_quoted_by_their_first_line(tmp_path: Path) -> None:
    failure = failure_of(KeyError("labels\nmore"), tmp_path)
    assert failure.message.startswith("KeyError: 'labels")
    assert failure.message.endswith("(see the log for the traceback)")


def test_a_model_that_cannot_be_compiled_says_what_to_set(tmp_path: Path) -> None:
    class BackendCompilerFailed(Exception):
        """As that of torch, which this test does not import."""

    failure = failure_of(BackendCompilerFailed("backend='inductor' raised:\nmore"), tmp_path)
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message.endswith("(backend='inductor' raised:): set training.compile to false")
