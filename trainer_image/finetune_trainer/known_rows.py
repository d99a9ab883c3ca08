"""What a job is measured against, and the test rows that are left out because a model was trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import BaselineChoice, Deduplication, FineTuneJobSpec
from finetune_api.stage import PreviousRevision, StageConfig
from finetune_trainer.prepare.same_model import check_base, check_labels, check_quantization
from finetune_trainer.prepared import DataReport, positions_left
from finetune_trainer.published import Published, read_published
from finetune_trainer.row_hashes import Hashes, LearnedRows

NO_PREVIOUS = (
    "evaluation.baseline is Previous, and the job has published no earlier revision: the baseline is that of Untuned"
)
UNKNOWN = "the previous model does not say which rows it was trained on, so that test examples may be among them"


def lacks_previous(config: StageConfig) -> bool:
    """Whether the job asks for a previous model and there is none."""
    spec = config.spec
    asked = spec.evaluation.baseline is BaselineChoice.PREVIOUS
    return asked and spec.model.adapter is None and config.previous is None


def previous_artifact(config: StageConfig, data: DataReport) -> Published | None:
    """The artifact of the earlier revision that the job is measured against; None if it is measured against another.

    Raises:
        StageFailure: NotFound when it no longer exists; BadConfiguration when it cannot be measured on the test
            examples, because it is for another task, other labels, another base model, or shorter texts.
    """
    previous = config.previous
    if previous is None:
        return None
    try:
        published = read_published(previous.uri, previous.digest, _field(previous))
    except StageFailure as failure:
        if failure.reason is not Reason.NOT_FOUND:
            raise
        raise StageFailure(
            Reason.NOT_FOUND, f"{failure.message}, or set evaluation.baseline to Untuned if it was deleted"
        ) from None
    spec = config.spec
    if published.spec.task.type is not spec.task.type:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{published.field}: it was trained for {published.spec.task.type}, and the job is {spec.task.type}: set "
            "evaluation.baseline to Untuned",
        )
    check_labels(published, data.labels, multiple=data.multi_label)
    check_quantization(published, spec.model.quantization)
    # A whole model has weights of its own, but must read the same tokens.
    check_base(published, data.model, ("weights", "config", "tokenizer") if published.is_adapter else ("tokenizer",))
    _check_room(published, data)
    return published


def _check_room(published: Published, data: DataReport) -> None:
    """Check that the model has positions for the test examples behind the virtual tokens of the earlier revision."""
    virtual = published.spec.method.virtual_tokens
    left = positions_left(data.model, virtual)
    # That of an example with several sequences is their sum.
    longest = min(data.max_sequence_length, data.splits["test"].length_quantiles["max"])
    if virtual and left is not None and longest > left:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{published.field}: behind its {virtual} virtual tokens, {data.model.uri} has room for {left} tokens, and "
            f"the longest test example of the job has {longest}: lower training.maxSequenceLength to {left}, or set "
            "evaluation.baseline to Untuned",
        )


def _field(previous: PreviousRevision) -> str:
    return f"evaluation.baseline Previous (revision {previous.revision})"


@dataclass(frozen=True)
class TestRows:
    """The test rows of a job, and which of them a model was trained on."""

    task: str
    hashes: Hashes
    kept: bool
    """Whether the job wants rows that are in several splits."""

    __test__ = False
    """No test of pytest."""

    @classmethod
    def of(cls, spec: FineTuneJobSpec, hashes: Hashes) -> TestRows:
        return cls(str(spec.task.type), hashes, spec.dataset.cleaning.deduplicate is Deduplication.NONE)

    def learned_by(self, *models: LearnedRows) -> npt.NDArray[np.bool_]:
        """Whether any of ``models`` was trained on each row, of shape (rows,)."""
        found = np.zeros(len(self.hashes), np.bool_)
        for model in models:
            found |= model.of(self.task, self.hashes)
        return found

    def left_out(self, *models: LearnedRows) -> npt.NDArray[np.bool_]:
        """Whether each row is left out of the evaluation, of shape (rows,).

        Rows that are in several splits on purpose, as `Deduplication.NONE` says, stay.
        """
        return np.zeros(len(self.hashes), np.bool_) if self.kept else self.learned_by(*models)

    def note(self, *models: LearnedRows) -> list[str]:
        """How many rows models were trained on, as a clause."""
        found = int(self.learned_by(*models).sum())
        if not found:
            return []
        rows = f"{found:,} of {len(self.hashes):,} test examples"
        verb = "is" if found == 1 else "are"
        trained = "the previous model was trained on"
        if self.kept:
            return [f"{rows}, which {trained}, {verb} kept (deduplicate: None)"]
        return [f"{rows}, which {trained}, {verb} left out of the evaluation"]


def check_rest(spec: FineTuneJobSpec, rows: TestRows, *models: LearnedRows) -> None:
    """Check that enough test rows are left.

    Raises:
        StageFailure: BadData when there are fewer than dataset.test.minimumExamples.
    """
    left_out = int(rows.left_out(*models).sum())
    rest, minimum = len(rows.hashes) - left_out, spec.dataset.test.minimum_examples
    if left_out and rest < minimum:
        raise StageFailure(
            Reason.BAD_DATA,
            f"The previous model was trained on {left_out:,} of {len(rows.hashes):,} test examples; the {rest:,} "
            "others are too few to compare the two: add rows that it was not trained on, keep training.seed and the "
            f"fractions as they were, or lower dataset.test.minimumExamples from {minimum}",
        )


def adapter_of(prepared: Path) -> Path:
    """The adapter that training continues from, in prepared data."""
    return prepared / layout.ADAPTER_DIRECTORY
