"""The protocol of a fine-tuning method: attach it to a model, restore the result, and describe the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune_api.spec import FineTuneJobSpec

if TYPE_CHECKING:
    from finetune_trainer.methods.coverage import Coverage
    from finetune_trainer.modelling.loading import LoadedModel

Loader = Callable[[Path], "LoadedModel"]
"""Loads the model in a directory with the model class of the task, for evaluation."""


@dataclass(frozen=True)
class Attachment:
    """Inputs of `Method.attach`."""

    spec: FineTuneJobSpec
    adapter_task: str
    """PEFT task type, such as CAUSAL_LM."""
    head: tuple[str, ...]
    """Names of the modules of the task head, which are trained fully and stored with an adapter."""
    untrained: tuple[str, ...] = ()
    """Ends of the names of linear layers to which training gives no gradient."""


class Method(Protocol):
    """A fine-tuning method."""

    trains_base: bool
    """Whether the method trains the weights of the base model."""
    form: str
    """Subject of the first sentence of the model card, such as ``A LoRA adapter``."""
    tags: tuple[str, ...]
    """Tags of the model card."""

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        """Return the model to train.

        Raises:
            StageFailure: BadConfiguration when the settings of the method do not fit the model.
        """

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        """Load the tuned model for evaluation.

        Args:
            load: Loads a model.
            base: Directory of the base model.
            trained: Directory of the trained weights.

        Raises:
            StageFailure: NotFound, BadData or InternalError when the trained weights are incomplete or do not fit.
        """

    def baseline_and_tuned(self, load: Loader, base: Path, trained: Path) -> Iterator[tuple[str, Any]]:
        """Yield ``("baseline", base model)`` and then ``("tuned", tuned model)``.

        A yielded model is valid only until the next one.

        Raises:
            StageFailure: As in `tuned`.
        """

    def coverage(self, model: Any) -> Coverage | None:
        """Which weights of the base model ``model``, the result of `attach`, changes; None if it changes all."""

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        """The settings of the method as (name, value) rows, for report and model card."""
