"""Changes to transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

VERSION = "5.23.0"
"""The version that the changes were checked with."""


@contextmanager
def without_scipy() -> Iterator[None]:
    """Import models without SciPy.

    Every model imports the losses of object detection, which import SciPy where it is installed: half a second in each
    process. Source: transformers/loss/loss_for_object_detection.py.
    """
    from transformers import utils

    finds_scipy = utils.is_scipy_available  # type: ignore[attr-defined]
    utils.is_scipy_available = lambda: False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        utils.is_scipy_available = finds_scipy  # type: ignore[attr-defined]


class NoStepAfterTheLast:
    """Makes Trainer train no step when it resumes from the checkpoint of the last step; it would train one more.

    Put it before Trainer in the list of base classes. Source: Trainer._inner_training_loop in transformers/trainer.py.
    """

    state: TrainerState
    control: TrainerControl

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **named)  # type: ignore[misc]
