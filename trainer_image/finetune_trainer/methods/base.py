"""What a method is made of: how it changes a model, how the result is restored, how it is described."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune_api.spec import FineTuneJobSpec

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel

Loader = Callable[[Path], "LoadedModel"]
"""Loads the model in a directory with the task's class, on the device and in the precision of the evaluation."""


@dataclass(frozen=True)
class Attachment:
    """What a method is attached with."""

    spec: FineTuneJobSpec
    adapter_task: str
    """PEFT's name of the task."""
    head: tuple[str, ...]
    """Modules that are trained whole and stored with an adapter: the task's head."""


class Method(Protocol):
    """One method."""

    trains_base: bool
    """Whether it changes the weights of the base model."""
    form: str
    """Begins the sentence ``… for text classification`` of the model card."""
    tags: tuple[str, ...]
    """Tags of the model card."""

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        """The model to train.

        Raises:
            StageFailure: BadConfiguration, when the method's settings do not fit the model.
        """

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        """The tuned model, for evaluation. ``base`` and ``trained`` are directories.

        Raises:
            StageFailure: NotFound, BadData or InternalError, when the trained files do not make a whole model.
        """

    def baseline_and_tuned(self, load: Loader, base: Path, trained: Path) -> Iterator[tuple[str, Any]]:
        """The untouched and the tuned model, as ``baseline`` and ``tuned``; only one at a time is usable.

        Raises:
            StageFailure: As `tuned` does.
        """

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        """The method's settings as rows of a table: name and value."""
