"""Which test rows an earlier model was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.known_rows import TestRows, check_rest
from finetune_trainer.row_hashes import LearnedRows, hashes_of, read_learned
from tests.builders import manifest

TASK = "TextClassification"
KEYS = [bytes([number]) * 16 for number in range(10)]


def spec(**dataset: object) -> FineTuneJobSpec:
    document = manifest(dataset={"train": {"uri": "s3://data/x"}, **dataset})["spec"]
    return FineTuneJobSpec.model_validate_json(json.dumps(document))


def learned(*rows: int, task: str = TASK) -> LearnedRows:
    return LearnedRows().with_rows(task, hashes_of(KEYS, rows))


def test_rows_are_found_again_after_they_were_stored(tmp_path: Path) -> None:
    learned(5, 1, 1, 3).with_rows("Translation", hashes_of(KEYS, [7])).write(tmp_path)
    found = read_learned(tmp_path)
    assert found.complete
    assert sorted(found.by_task) == [TASK, "Translation"]
    assert found.of(TASK, hashes_of(KEYS, range(8))).tolist() == [row in (1, 3, 5) for row in range(8)]
    assert found.of("Translation", hashes_of(KEYS, [1, 7])).tolist() == [False, True]


def test_the_file_depends_only_on_the_rows(tmp_path: Path) -> None:
    contents = []
    for name, rows in (("a", (1, 2, 3)), ("b", (3, 1, 2, 2))):
        (tmp_path / name).mkdir()
        learned(*rows).write(tmp_path / name)
        contents.append((tmp_path / name / "learned-rows.npz").read_bytes())
    assert contents[0] == contents[1]


def test_an_artifact_without_the_file_does_not_say_its_rows(tmp_path: Path) -> None:
    found = read_learned(tmp_path)
    assert not found.complete
    found.with_rows(TASK, hashes_of(KEYS, [1])).write(tmp_path)
    again = read_learned(tmp_path)
    assert not again.complete
    assert again.of(TASK, hashes_of(KEYS, [1, 2])).tolist() == [True, False]


def test_learned_rows_are_left_out_and_counted() -> None:
    rows = TestRows.of(spec(), hashes_of(KEYS, range(10)))
    models = learned(0, 1), learned(1, 2), learned(9, task="Translation")
    assert rows.left_out(*models).tolist() == [True] * 3 + [False] * 7
    assert rows.note(*models) == [
        "3 of 10 test examples, which the previous model was trained on, are left out of the evaluation"
    ]
    check_rest(spec(), rows, *models)
    assert rows.note(learned()) == []


def test_rows_that_are_in_several_splits_on_purpose_stay() -> None:
    wanted = spec(cleaning={"deduplicate": "None"})
    rows = TestRows.of(wanted, hashes_of(KEYS, range(10)))
    assert not rows.left_out(learned(*range(10))).any()
    (note,) = rows.note(learned(4))
    assert note.endswith("is kept (deduplicate: None)")
    check_rest(wanted, rows, learned(*range(10)))


def test_too_few_rows_are_refused() -> None:
    rows = TestRows.of(spec(), hashes_of(KEYS, range(10)))
    check_rest(spec(), rows, learned(*range(5)))
    with pytest.raises(StageFailure, match="trained on 6 of 10 test examples; the 4 others are too few") as caught:
        check_rest(spec(), rows, learned(*range(6)))
    assert caught.value.reason is Reason.BAD_DATA


def test_a_small_test_split_needs_no_more_than_it_has() -> None:
    rows = TestRows.of(spec(), hashes_of(KEYS, range(3)))
    check_rest(spec(), rows, learned(7))
    assert np.array_equal(rows.left_out(learned(7)), np.zeros(3, bool))
