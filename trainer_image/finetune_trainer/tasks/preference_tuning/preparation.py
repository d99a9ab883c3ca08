"""PreferenceTuning in the prepare stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import PreferenceSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepare.arrays import TOKENS, int32s, integers, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example, RowSchema, check_headers
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.tasks.instruction_tuning.tokens import readable
from finetune_trainer.tasks.preference_tuning.rows import Judged, Pair, schema_for
from finetune_trainer.tasks.preference_tuning.tokens import Answered, AnswerTokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KINDS = ("undesirable", "desirable")
"""Names of the labels 0 and 1."""
_LESS = 1 - 1e-9
"""Allows for the rounding of products."""
_BALANCED = 1.33
"""Largest ratio of desirable to undesirable answers, each times its weight; the smallest is 1 (KTO, section 4.2)."""


class PreferencePreparation:
    """Implements `finetune_trainer.tasks.base.Preparation`; every row is checked by itself."""

    labels: tuple[str, ...] = ()
    rows = prefix = ""

    def __init__(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        assert spec.preference is not None
        self._spec = spec
        self._preference = spec.preference
        self._paired = spec.preference.loss.row.paired
        self._tokeniser = AnswerTokeniser(tokenizer, max_length)
        self._kinds: dict[str, Counter[str]] = {}
        self._rows = self._repeating = 0
        """Rows, and those all answers of which begin with the prompt."""

    @property
    def fields(self) -> list[pa.Field]:
        answers = ("chosen", "rejected") if self._paired else ("completion",)
        return [
            pa.field("prompt_ids", TOKENS),
            *(pa.field(f"{answer}_ids", TOKENS) for answer in answers),
            pa.field("prompt", pa.string()),
            *(pa.field(answer, pa.string()) for answer in answers),
            *([] if self._paired else [pa.field("label", pa.int32())]),
        ]

    @property
    def answers(self) -> AnswerTokens:
        return self._tokeniser.answers

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = schema_for(self._spec, files)
        self.rows = self.rows or schema.form
        check_headers(files, schema)
        return schema

    def encode(self, examples: Sequence[Example]) -> Encoded:
        rows = [example for example in examples if isinstance(example, Pair | Judged)]
        encoded = self._tokeniser.encode([row.conversations for row in rows])
        problems = {index: row for index, row in enumerate(encoded) if isinstance(row, BadRow)}
        valid = [(row, found) for row, found in zip(rows, encoded, strict=True) if isinstance(found, Answered)]
        found = [answered for _, answered in valid]
        names = [field.name for field in self.fields]
        answers = range(2 if self._paired else 1)
        arrays = [
            token_lists([row.prompt for row in found]),
            *(token_lists([row.answers[index] for row in found]) for index in answers),
            texts([readable(row.conversations[0].messages[:-1]) for row, _ in valid]),
            *(texts([row.texts[index] for row in found]) for index in answers),
        ]
        if not self._paired:
            arrays.append(integers(np.array([int(_desirable(row)) for row, _ in valid], np.int32)))
        self._rows += len(valid)
        self._repeating += sum(_repeats(row) for row, _ in valid)
        truncated = np.array([row.truncated for row in found], np.bool_)
        return Encoded(
            dict(zip(names, arrays, strict=True)), truncated, problems, tokens=tuple(names[: len(answers) + 1])
        )

    def end_data_set(self, uri: str) -> None:
        """Nothing to check: every row is checked by itself."""

    def notes(self, label_counts: Mapping[str, int]) -> Sequence[str]:
        """Whether answers repeat their prompts, and whether the weights of KTO fit the data.

        Raises:
            StageFailure: BadData when a split of KTO lacks desirable or undesirable answers.
        """
        notes = []
        if 2 * self._repeating >= self._rows:
            notes.append(
                f"in {self._repeating:,} of {self._rows:,} rows the answers begin with the prompt, so the model learns "
                "to repeat it; remove it from the answers"
            )
        if self._paired:
            return notes
        for split in ("train", "test"):
            check_kinds(split, self._kinds.get(split, Counter()))
        return [*notes, *balance_notes(self._kinds["train"], self._preference)]

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        if not self._paired:
            labels = int32s(batch.column("label"))
            counts = Counter({kind: int((labels == label).sum()) for label, kind in enumerate(KINDS)})
            self._kinds.setdefault(split, Counter()).update(counts)
            label_counts.update(counts)
        return batch


def check_kinds(split: str, counts: Mapping[str, int]) -> None:
    """Check that a split of KTO has answers of both kinds.

    Args:
        split: Name of the split.
        counts: Its rows by kind.

    Raises:
        StageFailure: BadData when it has not.
    """
    absent = next((kind for kind in KINDS if not counts.get(kind)), None)
    if absent is None:
        return
    need = "the area under the ROC curve compares them" if split == "test" else "KTO learns from both"
    raise StageFailure(
        Reason.BAD_DATA,
        f"The {split} split has no {absent} answer, and {need}: add rows, or set dataset.{split}.uri to a file that "
        "has both",
    )


def balance_notes(counts: Mapping[str, int], preference: PreferenceSpec) -> list[str]:
    """A note if desirable and undesirable answers do not count about the same.

    Args:
        counts: Rows of the training split by kind.
        preference: The weights of both kinds.
    """
    bad, good = (counts[kind] for kind in KINDS)
    desired, undesired = good * preference.desirable_weight, bad * preference.undesirable_weight
    if undesired * _LESS <= desired <= _BALANCED * undesired / _LESS:
        return []
    return [
        f"{good:,} desirable and {bad:,} undesirable answers are out of balance: set undesirableWeight from "
        f"{_range(desired / bad / _BALANCED, desired / bad)}, or desirableWeight from "
        f"{_range(undesired / good, undesired / good * _BALANCED)}"
    ]


def _range(low: float, high: float) -> str:
    """Two weights between ``low`` and ``high``, rounded inwards: with both, the answers are in balance."""
    digits = next(digits for digits in range(2, 20) if math.ceil(low * 10**digits) <= math.floor(high * 10**digits))
    scale = 10**digits
    return f"{math.ceil(low * scale) / scale:.{digits}f} to {math.floor(high * scale) / scale:.{digits}f}"


def _repeats(row: Pair | Judged) -> bool:
    """Whether the prompt is one text, with which all answers begin as well."""
    prompt = row.conversations[0].messages[-2]["content"]
    return isinstance(prompt, str) and all(
        str(chat.messages[-1]["content"]).lstrip().startswith(prompt.strip()) for chat in row.conversations
    )


def _desirable(row: Pair | Judged) -> bool:
    return isinstance(row, Judged) and row.desirable
