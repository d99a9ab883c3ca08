"""The report: its content, no external resources, and escaped text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from finetune_api.evaluation import Baseline, BaselineKind, Evaluation, GateResult
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.evaluate.metrics import metric_result
from finetune_trainer.prepared import DataReport, InvalidRow, ModelHandling, ModelIdentity, SourceFile, SplitReport
from finetune_trainer.report.changes import classification_changes, generation_changes
from finetune_trainer.report.charts import Series, line_chart, number, thin, ticks
from finetune_trainer.report.page import ReportInputs, gate_text, headline, render, training_facts
from finetune_trainer.report.teacher import teacher_text
from tests.builders import an_evaluation, an_identity

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
VOID = {"meta"}


def report_inputs(task: str = "TextClassification", text: str = "a text", **changes: Any) -> ReportInputs:
    spec = FineTuneJobSpec.model_validate_json(
        json.dumps(
            {
                "model": {"uri": "hf://acme/tiny"},
                "task": {"type": task},
                "dataset": {"train": {"uri": "s3://data/train.jsonl"}},
                "output": {"uri": "s3://models"},
            }
        )
    )
    classified = task == "TextClassification"
    metrics = (
        [metric_result(Metric.ACCURACY, 0.8, 0.9, (0.05, 0.15)), metric_result(Metric.MACRO_F1, 0.7, 0.6, (-0.2, 0.1))]
        if classified
        else [metric_result(Metric.ROUGE_L, 0.2, 0.5, (0.2, 0.4)), metric_result(Metric.LOSS, 2.0, 1.0, (-1.2, -0.8))]
    )
    split = SplitReport(
        examples=4,
        tokens=4000,
        truncated=1,
        length_quantiles={"p50": 9, "p90": 20, "p99": 30, "max": 31},
        label_counts={text: 3, "other": 1} if classified else {},
    )
    model = ModelIdentity(
        uri="hf://acme/tiny", revision="c0ffee", architecture="Bert", parameters=22, max_positions=512
    )
    handling = ModelHandling(
        model_class="BertForSequenceClassification",
        tested=True,
        packing=False,
        batching=True,
        batched_generation=True,
        attention="sdpa",
        unused_parameters=False,
    )
    fields: dict[str, Any] = {
        "job": an_identity(namespace="team-a", name="intents", uid="u", revision=2),
        "spec": spec,
        "data": DataReport(
            task=task,
            family=ModelFamily.ENCODER if classified else ModelFamily.CAUSAL,
            labels=(text, "other") if classified else (),
            max_sequence_length=128,
            padding=0,
            end_tokens=() if classified else (2, 7),
            splits={"train": split, "test": split},
            duplicates=5,
            inputs_digest="sha256:" + "0" * 64,
            contradicting=1,
            leaked=2,
            invalid=1,
            invalid_rows=(InvalidRow(file="train.jsonl", line=7, problem=f"no label: {text}"),),
            sources=(SourceFile(uri="s3://data/train.jsonl", size=12345, sha256="ab" * 32),),
            model=model,
            handling=handling,
        ),
        "evaluation": Evaluation(
            split="test",
            examples=4,
            baseline=Baseline(kind=BaselineKind.LINEAR_PROBE if classified else BaselineKind.BASE_MODEL),
            metrics=tuple(metrics),
        ),
        "details": {
            "chosenBy": "accuracy on the validation split",
            "majorityClass": {"label": text, "accuracy": 0.3},
            "linearProbe": {"C": 0.01, "accuracy": 0.8, "trainExamples": 4},
        }
        if classified
        else {"decoding": "greedy", "maxNewTokens": 64},
        "tables": {
            "slices": _slices(text),
            **({"labels": [_of_label(text), _of_label("other")]} if classified else {}),
        },
        "predictions": _rows(text) if classified else _answers(text),
        "history": {
            "train": [{"step": s, "loss": 2 / s, "learningRate": 1e-4, "tokensPerSecond": 900} for s in range(1, 50)],
            "validation": [{"step": 25, "loss": 0.2}, {"step": 50, "loss": 0.1}],
        },
        "training": {"steps": 49, "tokens": 44100, "stoppedEarly": False, "versions": {"torch": "2.15.0"}},
        "digests": {"Trained weights": "sha256:2"},
    }
    return ReportInputs(**(fields | changes))


def _rows(text: str) -> list[dict[str, Any]]:
    row = {"source": "test.jsonl:1", "text": text, "label": text}
    outcomes = [(text, text), ("other", text), (text, "other"), ("other", "other")]
    return [row | {"baseline": baseline, "tuned": tuned} for baseline, tuned in outcomes]


def _slices(text: str) -> list[dict[str, Any]]:
    metric = metric_result(Metric.CHRF, 10, 12, (1, 3)).model_dump(mode="json") | {"verdict": None}
    values = [{"value": value, "examples": 4, "metrics": [metric, metric]} for value in (text, None)]
    return [{"column": text, "values": values}]


def _of_label(label: str) -> dict[str, Any]:
    shares = {"precision": None, "recall": 0.25, "f1": 0.4}
    return {"label": label, "trainExamples": 3, "testExamples": 4, "baseline": shares, "tuned": shares}


def _answers(text: str) -> list[dict[str, Any]]:
    scores = [(0.1, 0.9), (0.9, 0.1), (0.5, 0.5), (0.2, 0.3)]
    return [
        {
            "source": f"test.jsonl:{line}",
            "prompt": text,
            "reference": text,
            "baseline": text,
            "tuned": text,
            "scores": {name: {"baseline": baseline, "tuned": tuned} for name in ("rouge_l", "loss")},
        }
        for line, (baseline, tuned) in enumerate(scores, start=1)
    ]


class _Elements(HTMLParser):
    """Every element with its attributes; checks that all are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("task", ["TextClassification", "InstructionTuning"])
def test_text_from_users_is_escaped(task: str) -> None:
    page = render(report_inputs(task, ATTACK))
    elements = _Elements(page).found
    assert not {"script", "img", "iframe", "object", "link"} & {tag for tag, _ in elements}
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page


@pytest.mark.parametrize("task", ["TextClassification", "InstructionTuning"])
def test_the_page_has_no_external_resources_and_no_scripts(task: str) -> None:
    page = render(report_inputs(task))
    for tag, attributes in _Elements(page).found:
        assert not {"src", "srcset", "xlink:href", "style"} & attributes.keys(), tag
    assert "url(" not in page
    assert "@import" not in page
    assert 'content="default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;"' in page


def test_page_shows_verdict_scores_data_and_provenance() -> None:
    page = re.sub(r"<[^>]+>", " ", render(report_inputs()))
    text = " ".join(page.split())
    for expected in (
        "Better than a linear probe",
        "Accuracy 0.900 instead of 0.800 on 4 test examples: +0.100",
        "Chosen by accuracy on the validation split",
        "5 duplicates, 2 rows that are also in a held-out split, 1 invalid rows",
        "c0ffee",
        "torch 2.15.0",
        "The job has no gates",
    ):
        assert expected in text


@pytest.mark.parametrize("task", ["TextClassification", "InstructionTuning"])
def test_a_search_has_a_best_prompt_and_nothing_that_was_tuned(task: str) -> None:
    evaluation = report_inputs(task).evaluation
    searched = evaluation.model_copy(update={"baseline": Baseline(kind=BaselineKind.PLAIN_PROMPT)})
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", render(report_inputs(task, evaluation=searched)), flags=re.DOTALL)
    assert "Best prompt" in text
    assert not re.search(r"\btun(ed|ing)\b", text)
    assert re.search(r"\btuned\b", re.sub(r"<[^>]+>", " ", render(report_inputs(task))))


def test_classification_changes_per_example_and_confusion() -> None:
    changes = classification_changes(_rows("a"), examples=True)
    assert (changes.fixed, changes.broken, changes.both_right, changes.both_wrong) == (1, 1, 1, 1)
    assert [(c.label, c.predicted, c.baseline, c.tuned) for c in changes.confusions] == [("a", "other", 2, 2)]


@pytest.mark.parametrize(("higher", "gain", "loss"), [(True, 1, 2), (False, 2, 1)])
def test_generation_changes_are_sorted_by_size(higher: bool, gain: int, loss: int) -> None:
    changes = generation_changes(_answers("a"), "rouge_l", higher, examples=True)
    assert changes.same == 1
    assert changes.better + changes.worse == 3
    assert changes.gains[0].row["source"] == f"test.jsonl:{gain}"
    assert changes.losses[0].row["source"] == f"test.jsonl:{loss}"


@pytest.mark.parametrize(("higher", "lines"), [(True, [2, 4, 3]), (False, [3, 4, 2])])
def test_the_lowest_scores_come_first_and_answers_like_the_reference_are_left_out(
    higher: bool, lines: list[int]
) -> None:
    answers = [row if line == 1 else row | {"tuned": "b"} for line, row in enumerate(_answers("a"), start=1)]
    changes = generation_changes(answers, "rouge_l", higher, examples=True)
    assert [item.row["source"] for item in changes.lowest] == [f"test.jsonl:{line}" for line in lines]


@pytest.mark.parametrize("task", ["InstructionTuning", "Summarization"])
def test_a_report_of_generated_answers_shows_the_lowest_scores(task: str) -> None:
    answers = [row | {"tuned": "another text"} for row in _answers("a text")]
    assert "Lowest scores of the tuned model" in render(report_inputs(task, predictions=answers))
    assert "Lowest scores of the tuned model" not in render(report_inputs(task, predictions=_answers("a text")))


@pytest.mark.parametrize(
    ("name", "interval", "expected"),
    [
        (Metric.ACCURACY, (0.01, 0.2), "better"),
        (Metric.ACCURACY, (-0.2, -0.01), "worse"),
        (Metric.ACCURACY, (-0.1, 0.2), "no difference shown"),
        (Metric.LOSS, (-0.3, -0.1), "better"),
        (Metric.LOSS, (0.1, 0.3), "worse"),
    ],
)
def test_the_verdict_depends_on_interval_and_direction(
    name: Metric, interval: tuple[float, float], expected: str
) -> None:
    assert metric_result(name, 1.0, sum(interval) / 2 + 1.0, interval).verdict == expected


def test_page_shows_which_weights_early_stopping_kept() -> None:
    training = {"steps": 49, "weightsOfStep": 25, "stoppedEarly": True}
    assert ("Step of the published weights", "25") in training_facts(training)


def test_a_failed_gate_determines_the_headline() -> None:
    failed = GateResult(metric=Metric.ACCURACY, minimum=0.95, value=0.9, passed=False)
    kept = GateResult(metric=Metric.ACCURACY, minimum_improvement=0.02, value=0.1, passed=True)
    inputs = report_inputs()
    evaluation = inputs.evaluation.model_copy(update={"gates": (failed, kept)})
    summary = headline(evaluation)
    assert (summary.tone, summary.text) == ("worse", "Rejected: 1 of 2 gates failed")
    assert gate_text(failed) == "Accuracy at least 0.95: 0.9"
    assert gate_text(kept) == "Accuracy better by at least 0.02: +0.1"
    lost = GateResult(metric=Metric.ROUGE_L, minimum_improvement=0.02, value=-0.1, passed=False)
    assert gate_text(lost) == "ROUGE-L better by at least 0.02: −0.1"
    page = render(report_inputs(evaluation=evaluation))
    assert "✗ failed · Accuracy at least 0.95: 0.9" in page


def test_page_is_complete_without_history_predictions_and_training() -> None:
    page = render(report_inputs("InstructionTuning", history={}, training={}, predictions=[]))
    assert "<svg" in page
    _Elements(page)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.3, 0.3, [0.3, 0.4, 0.5, 0.6]), (0, 2e-4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4])],
)
def test_ticks_are_round_numbers_that_enclose_the_data(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_tick_labels_are_short() -> None:
    assert [number(value) for value in (0, 0.25, 12500, 0.0002, 0.00015)] == [
        "0",
        "0.25",
        "12\u202f500",
        "2e-4",
        "1.5e-4",
    ]


def test_long_series_are_thinned_and_non_finite_points_dropped() -> None:
    points = [(float(x), float("nan") if x % 10 == 0 else 1.0) for x in range(10_000)]
    thinned = thin(points)
    assert len(thinned) <= 400
    assert {y for _, y in thinned} == {1.0}
    assert line_chart("t", "x", "y", [Series("s", [(1.0, float("inf"))], "tuned")]) is None
    assert "circle" in str(line_chart("t", "x", "y", [Series("s", [(1.0, 2.0)], "tuned")]))


def test_a_report_without_examples_has_none_of_their_texts() -> None:
    classified = classification_changes(_rows("a"), examples=False)
    assert (classified.fixed_rows, classified.broken_rows, classified.wrong_rows) == ([], [], [])
    answers = [row | {"tuned": "b"} for row in _answers("a")]
    generated = generation_changes(answers, "rouge_l", True, examples=False)
    assert (generated.gains, generated.losses, generated.unchanged, generated.same) == ([], [], [], 1)
    assert generated.lowest == []


@pytest.mark.parametrize(
    ("tuned", "text"),
    [
        (0.75, "The student closes 50 % of the gap in accuracy from the baseline to the teacher."),
        (0.5, "In accuracy, the student is further from the teacher than the baseline is."),
    ],
)
def test_how_far_a_student_has_come(tuned: float, text: str) -> None:
    plain = an_evaluation(baseline=0.7, tuned=tuned)
    taught = plain.metrics[0].model_copy(update={"teacher": 0.8})
    assert teacher_text(plain.model_copy(update={"metrics": (taught,)})).lower() == text.lower()


def test_a_line_at_the_lowest_tick_stands_above_the_axis() -> None:
    lines = [Series("one", [(1, 0.66), (2, 0.66)], "baseline"), Series("other", [(1, 0.7), (2, 0.76)], "tuned")]
    chart = line_chart("Accuracy", "combination", "Accuracy", lines)
    assert chart is not None
    assert ">0.64</text>" in chart
    assert ">-" not in str(line_chart("Accuracy", "x", "y", [Series("one", [(1, 0.0)], "tuned"), lines[0]]))
