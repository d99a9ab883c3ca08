"""Changes to transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
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


def fix_template_date(template: str, today: date) -> bool:
    """Make ``strftime_now`` in the chat template ``template`` return ``today`` in this process.

    Some chat templates insert the current date, so the text would depend on the day on which a stage runs. Source:
    transformers/utils/chat_template_utils.py, which defines the function and caches the compiled template.

    Returns:
        Whether the template uses the function.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    if "strftime_now" not in template:
        return False
    compiled: Any = _compile_jinja_template(template)
    compiled.globals["strftime_now"] = today.strftime
    return True


@contextmanager
def unpartitioned() -> Iterator[None]:
    """Load models whole, also if ZeRO-3 is configured; DeepSpeed shares their weights out when it starts.

    A rounded model cannot be loaded in parts, and transformers refuses a device for it with ZeRO-3. Source:
    check_and_set_device_map in transformers/integrations/accelerate.py.
    """
    from transformers.integrations import deepspeed

    integration: Any = deepspeed
    known = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = known


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
