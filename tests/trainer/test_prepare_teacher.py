"""Prepare compares a teacher with its student, and refuses one whose logits mean something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.layout import LEARNED_ROWS
from finetune_trainer.context import StageContext
from finetune_trainer.row_hashes import LearnedRows, read_test_rows
from tests.trainer.prepare_fixtures import a_context, json_lines, prepared, refused, stored
from tests.trainer.teacher_models import save_classifier, save_generator, taught_by
from tests.trainer.tiny_models import LABELS, make_texts, save_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student of a classification."""
    directory = tmp_path_factory.mktemp("student") / "bert"
    save_bert(directory)
    return directory


def classification(root: Path, student: Path, teacher: Path, **spec: Any) -> StageContext:
    rows = [{"text": text, "label": LABELS[label]} for text, label in make_texts(80, 1)]
    data = json_lines(root / "train.jsonl", rows)
    spec = {"task": {"type": "TextClassification"}, "distillation": taught_by(teacher), **spec}
    task = spec.pop("task")
    return a_context(root, student.as_uri(), task, {"train": {"uri": data}}, **spec)


def chat(root: Path, student: Path, teacher: Path, **spec: Any) -> StageContext:
    made = make_texts(40, 2)
    rows = [{"prompt": f"what is it {text}", "completion": f"it is {LABELS[label]}"} for text, label in made]
    data = json_lines(root / "train.jsonl", rows)
    spec = {"distillation": taught_by(teacher), **spec}
    return a_context(root, student.as_uri(), {"type": "InstructionTuning"}, {"train": {"uri": data}}, **spec)


def config_of(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def vocabulary_of(directory: Path, change: Callable[[dict[str, int]], None]) -> None:
    path = directory / "tokenizer.json"
    document = json.loads(path.read_text())
    change(document["model"]["vocab"])
    path.write_text(json.dumps(document))


def swap(vocabulary: dict[str, int]) -> None:
    vocabulary["apple"], vocabulary["pear"] = vocabulary["pear"], vocabulary["apple"]


def rename(vocabulary: dict[str, int]) -> None:
    vocabulary["papaya"] = vocabulary.pop("apple")


def test_labels_are_matched_by_name_in_any_order(bert: Path, tmp_path: Path) -> None:
    teacher = save_classifier(tmp_path / "teacher", ("weather", "fruit", "metal"))
    result, report = prepared(classification(tmp_path, bert, teacher))
    assert report.teacher is not None
    assert report.labels == ("fruit", "metal", "weather")
    assert report.teacher.labels == (1, 2, 0)
    assert report.teacher.tokens is None
    assert result.teacher_parameters == report.teacher.model.parameters > 0


@pytest.mark.parametrize(
    ("labels", "changes", "sentence"),
    [
        (("fruit", "metal"), {}, "lacks 'weather', compared with the 3 labels of the job: train the teacher with"),
        ((*LABELS, "other"), {}, "has also 'other', compared with the 3 labels"),
        (LABELS, {"architectures": ["BertModel"]}, "is a BertModel, which has no trained head for this task"),
        (LABELS, {"architectures": ["BertForMaskedLM"]}, "which has no trained head"),
        (LABELS, {"id2label": None}, "does not name the labels of its head (id2label)"),
        (LABELS, {"id2label": {"0": "fruit", "1": "metal", "2": "weather", "3": "metal"}}, "names a label twice"),
        (LABELS, {"max_position_embeddings": 32}, "supports at most 32 positions, and examples have up to 64 tokens"),
        (LABELS, {"problem_type": "multi_label_classification"}, "predicts any number of labels for a text"),
        (LABELS, {"vocab_size": 20}, "has 20 token embeddings: resize its embeddings"),
        (LABELS, {"model_type": "t5"}, "T5ForSequenceClassification of "),
        (
            LABELS,
            {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]},
            "is a model of the family causal, and ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_classifier_that_cannot_teach_is_refused(
    labels: tuple[str, ...], changes: dict[str, Any], sentence: str, bert: Path, tmp_path: Path
) -> None:
    teacher = save_classifier(tmp_path / "teacher", labels)
    config_of(teacher, **changes)
    failure = refused(classification(tmp_path, bert, teacher))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert str(failure).startswith("distillation.teacher: ")
    assert sentence in str(failure)


def test_a_teacher_of_one_label_cannot_teach_label_lists(bert: Path, tmp_path: Path) -> None:
    teacher = save_classifier(tmp_path / "teacher")
    task = {"type": "TextClassification", "multiLabel": True}
    context = classification(tmp_path, bert, teacher, task=task)
    json_lines(tmp_path / "train.jsonl", [{"text": text, "label": [LABELS[one]]} for text, one in make_texts(80, 1)])
    assert "predicts one label for a text (problem_type), and task.multiLabel is true" in str(refused(context))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (swap, "2 tokens have another id, such as 'apple' (18, not 17)"),
        (rename, "2 are only in one of them, such as 'apple'"),
    ],
)
def test_another_vocabulary_of_the_same_size_is_refused(
    change: Callable[[dict[str, int]], None], sentence: str, bert: Path, tmp_path: Path
) -> None:
    teacher = save_classifier(tmp_path / "teacher")
    vocabulary_of(teacher, change)
    message = str(refused(classification(tmp_path, bert, teacher)))
    assert f"has another vocabulary than {bert.as_uri()}: {sentence}" in message
    assert message.endswith("; use a teacher with the same tokenizer")


class TestOfTokens:
    def test_padding_rows_of_both_models_are_not_used(self, llama: Path, tmp_path: Path) -> None:
        teacher = save_generator(tmp_path / "teacher", vocab_size=64)
        _, report = prepared(chat(tmp_path, llama, teacher))
        assert report.teacher is not None
        assert report.teacher.tokens == 47
        assert "17 padding rows of the teacher are not used" in report.notes
        padded = save_generator(tmp_path / "student", vocab_size=48)
        (tmp_path / "other").mkdir()
        _, report = prepared(chat(tmp_path / "other", padded, teacher))
        assert "17 padding rows of the teacher and 1 padding rows of the student are not used" in report.notes

    def test_responses_are_the_alternative_to_another_vocabulary(self, llama: Path, tmp_path: Path) -> None:
        teacher = save_generator(tmp_path / "teacher")
        vocabulary_of(teacher, swap)
        message = str(refused(chat(tmp_path, llama, teacher)))
        assert message.endswith("same tokenizer, or mode Responses, which compares no logits")

    def test_a_teacher_that_mixes_packed_rows_turns_packing_off(self, llama: Path, tmp_path: Path) -> None:
        teacher = save_generator(tmp_path / "teacher")
        config_of(teacher, model_type="opt", architectures=["OPTForCausalLM"])
        _, report = prepared(chat(tmp_path, llama, teacher))
        assert not report.handling.packing
        assert any(note.startswith("packing is off, because the teacher OPTForCausalLM") for note in report.notes)
        (tmp_path / "asked").mkdir()
        failure = refused(chat(tmp_path / "asked", llama, teacher, training={"packing": True}))
        assert "does not separate the examples of a packed row: set training.packing to false" in str(failure)


def test_a_teacher_whose_outputs_depend_on_padding_reads_one_row_at_a_time(bert: Path, tmp_path: Path) -> None:
    teacher = save_classifier(tmp_path / "teacher")
    config_of(teacher, model_type="nystromformer", architectures=["NystromformerForSequenceClassification"])
    _, report = prepared(classification(tmp_path, bert, teacher))
    assert not report.handling.batching
    assert any(
        note.startswith("examples run one at a time, because the outputs of the teacher") for note in report.notes
    )


def test_a_missing_teacher_is_named_by_its_field(bert: Path, tmp_path: Path) -> None:
    failure = refused(classification(tmp_path, bert, tmp_path / "nowhere"))
    assert failure.reason is Reason.NOT_FOUND
    assert "correct spec.distillation.teacher.uri" in str(failure)


def test_an_adapter_is_no_teacher(bert: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    failure = refused(classification(tmp_path, bert, adapter))
    assert "is an adapter, and a teacher is a whole model: merge the adapter into its base model" in str(failure)


def test_another_teacher_at_the_same_address_is_another_input(bert: Path, tmp_path: Path) -> None:
    teacher = save_classifier(tmp_path / "teacher")
    first, _ = prepared(classification(tmp_path, bert, teacher))
    save_classifier(teacher, seed=99)
    second, _ = prepared(classification(tmp_path, bert, teacher))
    assert first.inputs_digest != second.inputs_digest


def test_another_vocabulary_is_refused_before_the_data_is_read(bert: Path, tmp_path: Path) -> None:
    teacher = save_classifier(tmp_path / "teacher", LABELS)
    vocabulary_of(teacher, swap)
    context = classification(tmp_path, bert, teacher)
    (tmp_path / "train.jsonl").write_text("no JSON\n")
    assert "has another vocabulary" in refused(context).message


@pytest.mark.parametrize("damaged", [False, True])
def test_test_rows_that_the_teacher_was_trained_on_are_noted(bert: Path, tmp_path: Path, damaged: bool) -> None:
    teacher = save_classifier(tmp_path / "teacher", LABELS)
    context = classification(tmp_path, bert, teacher)
    result, _ = prepared(context)
    assert not any("the teacher was trained on" in note for note in result.notes)
    rows = read_test_rows(stored(context))
    LearnedRows().with_rows("TextClassification", rows[:3]).write(teacher)
    if damaged:
        (teacher / LEARNED_ROWS).write_bytes(b"PK no archive")
    shutil.rmtree(stored(context))
    again, _ = prepared(replace(context, workspace=tmp_path / "again"))
    note = f"the teacher was trained on 3 of {len(rows)} test examples, so that its scores are too good"
    assert damaged is not any(note in one for one in again.notes)
