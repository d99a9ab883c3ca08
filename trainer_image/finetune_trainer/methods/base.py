"""The protocol of a fine-tuning method: attach it to a model, restore the result, and describe the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, MethodSpec

if TYPE_CHECKING:
    import torch

    from finetune_api.tables.tasks import ModelFamily, TaskType
    from finetune_trainer.context import StageContext
    from finetune_trainer.host.inputs import TrainInputs
    from finetune_trainer.methods.coverage import Coverage
    from finetune_trainer.modelling.loading import LoadedModel
    from finetune_trainer.tasks.base import TaskForm
    from finetune_trainer.trained import Trained

Work = Callable[["StageContext", "TrainInputs"], "Trained"]
"""Makes the result of the method in one process of the gang."""

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
    initial_tokens: tuple[int, ...] = ()
    """Tokens whose embeddings the virtual tokens start from; empty if they start at random."""
    adapter: Path | None = None
    """Directory of the adapter that training continues from; None for a new one."""
    trial: bool = False
    """Whether the model has no weights, and only whether the method fits it is of interest."""


Batch = Mapping[str, "torch.Tensor"]
"""Inputs of a model."""


class Batches(Protocol):
    """Batches that can be read again and again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


BatchesOf = Callable[[int], Batches]

_NO_FACTORS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class InitialTokens:
    """What virtual tokens start from."""

    tokens: tuple[int, ...] = ()
    """One for each virtual token; empty if they start at random."""
    notes: tuple[str, ...] = ()
    """What the user should know about them, as clauses."""


class Method(Protocol):
    """A fine-tuning method."""

    trains_base: bool
    """Whether the method trains the weights of the base model."""
    work: str
    """``module:function`` that imports the libraries of the train stage and returns what it does (`Work`)."""
    form: str
    """Subject of the first sentence of the model card, such as ``A LoRA adapter``."""
    tags: tuple[str, ...]
    """Tags of the model card."""
    undecayed: tuple[str, ...]
    """Parts of the names of parameters that weight decay leaves alone: they are not 0 in the base model."""

    def task_form(self, task: TaskType, family: ModelFamily, form: TaskForm) -> TaskForm:
        """The form of a task with this method.

        Args:
            task: The task.
            family: A family of models.
            form: The form of the task for models of this family.
        """

    def check_data(self, spec: FineTuneJobSpec, rows: int) -> Sequence[str]:
        """Notes, as clauses, about a training split of ``rows`` examples; called in the prepare stage, without torch.

        Raises:
            StageFailure: BadConfiguration when the settings do not fit the data.
        """

    def initial_tokens(self, spec: FineTuneJobSpec, tokenizer: Any) -> InitialTokens:
        """What the method starts from; called in the prepare stage, without torch.

        Raises:
            StageFailure: BadConfiguration when the text of the spec has no tokens.
        """

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        """Return the model to train.

        Raises:
            StageFailure: BadConfiguration when the settings of the method do not fit the model.
        """

    def continued(self, spec: FineTuneJobSpec, origin: FineTuneJobSpec, adapter: Path) -> MethodSpec:
        """The settings for continuing from an adapter: those of ``spec``, or of the adapter where it has none.

        Args:
            spec: The spec of the job.
            origin: The spec that the adapter was published with, of the same method.
            adapter: Directory of the adapter.

        Raises:
            StageFailure: BadConfiguration when those of ``spec`` are for another adapter.
        """

    def needs_trial(self, spec: FineTuneJobSpec) -> bool:
        """Whether the settings may not fit the model, so that the prepare stage tries them on it without weights."""

    def initialise(self, model: Any, spec: FineTuneJobSpec, batches_of: BatchesOf) -> None:
        """Called before the first step of a training that does not resume, on every rank with the same arguments.

        Args:
            model: The result of `attach`.
            spec: The spec of the job.
            batches_of: Batches of random training rows, by the number of rows in each; none if there are fewer rows.

        Raises:
            StageFailure: BadConfiguration when the settings of the method do not fit the data.
        """

    def reference(self, model: Any, spec: FineTuneJobSpec) -> Any:
        """The model that an objective compares with before the first step: the base model, or that with the adapter
        that training continues from.

        Args:
            model: The result of `attach`.
            spec: The spec of the job.

        Returns:
            ``model`` itself if it is the reference as long as nothing is trained.
        """

    def save_state(self, model: Any, checkpoint: Path) -> None:
        """Write to a checkpoint what its model files lack and a resumed attempt needs; one rank calls this."""

    def load_state(self, model: Any, checkpoint: Path) -> None:
        """Read what `save_state` has written; all ranks call this, once the rest of the checkpoint is loaded."""

    def rate_factors(self, spec: FineTuneJobSpec) -> Mapping[str, float]:
        """Factors of the learning rate, by a part of the names of parameters."""

    def finish(self, model: Any, directory: Path, spec: FineTuneJobSpec) -> None:
        """Change the saved weights in ``directory`` to those that are published.

        Args:
            model: The result of `attach`.
            directory: Directory of the weights that the model saved after some step.
            spec: The spec of the job.
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

    def logit_offset(self, spec: FineTuneJobSpec) -> int:
        """Places before those of the text in the logits of the published result, loaded without this project."""

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        """The settings of the method as (name, value) rows, for report and model card."""


class MethodDefaults:
    """What a `Method` has that most methods need not decide."""

    work = "finetune_trainer.train.work:load"
    undecayed: tuple[str, ...] = ()

    def task_form(self, task: TaskType, family: ModelFamily, form: TaskForm) -> TaskForm:
        return form

    def check_data(self, spec: FineTuneJobSpec, rows: int) -> Sequence[str]:
        return ()

    def continued(self, spec: FineTuneJobSpec, origin: FineTuneJobSpec, adapter: Path) -> MethodSpec:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, f"model.adapter: training with method {spec.method.type} cannot continue"
        )

    def needs_trial(self, spec: FineTuneJobSpec) -> bool:
        return False

    def initialise(self, model: Any, spec: FineTuneJobSpec, batches_of: BatchesOf) -> None:
        """Do nothing."""

    def initial_tokens(self, spec: FineTuneJobSpec, tokenizer: Any) -> InitialTokens:
        return InitialTokens()

    def logit_offset(self, spec: FineTuneJobSpec) -> int:
        return 0

    def reference(self, model: Any, spec: FineTuneJobSpec) -> Any:
        return model

    def save_state(self, model: Any, checkpoint: Path) -> None:
        """Do nothing."""

    def load_state(self, model: Any, checkpoint: Path) -> None:
        """Do nothing."""

    def rate_factors(self, spec: FineTuneJobSpec) -> Mapping[str, float]:
        return _NO_FACTORS

    def finish(self, model: Any, directory: Path, spec: FineTuneJobSpec) -> None:
        """Do nothing."""
