"""Rows of Summarization and Translation."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from finetune_api.failures import StageFailure
from finetune_trainer.pairs.check import CopiedTargets
from finetune_trainer.pairs.rows import Pair
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.translation.rows import ByLanguage

TEXTS = {"en": "Good morning.", "de": "Guten Morgen."}
BY_LANGUAGE = ByLanguage("translation", "EN", "de")


@pytest.mark.parametrize("cell", [TEXTS, json.dumps(TEXTS), str(TEXTS)])
def test_texts_by_language_may_be_written_as_text(cell: Any) -> None:
    assert BY_LANGUAGE.example({"translation": cell}) == Pair("Good morning.", "Guten Morgen.")


@pytest.mark.parametrize("cell", ["Guten Morgen.", '["en"]', "{en}", None])
def test_other_cells_are_no_texts_by_language(cell: Any) -> None:
    with pytest.raises(BadRow, match=r"column 'translation' contains .*, not an object"):
        BY_LANGUAGE.example({"translation": cell})


def seen(*pairs: tuple[str, str]) -> CopiedTargets:
    check = CopiedTargets(("text", "summary"))
    sources, targets = zip(*pairs, strict=True)
    places = [f"a.csv:{line}" for line in range(2, len(pairs) + 2)]
    check.see(pa.RecordBatch.from_pydict({"prompt": sources, "reference": targets, "source": places}))
    return check


def test_copied_targets_are_noted_with_their_rows() -> None:
    assert seen(("It rains.", " it  rains."), ("It rains a lot.", "Rain.")).notes() == (
        "the summary equals the text in 1 of 2 rows: a.csv:2",
    )
    assert seen(("It rains.", "Rain.")).notes() == ()


def test_data_without_another_target_is_refused() -> None:
    with pytest.raises(StageFailure) as failure:
        seen(("It rains.", "It rains.")).notes()
    assert failure.value.message == (
        "The summary of each of the 1 rows equals its text, so there is nothing to learn: check dataset.columns.text "
        "and dataset.columns.summary"
    )
