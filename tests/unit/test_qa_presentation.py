"""QuestionAnswering in the report: answers marked in their context."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from finetune_api.evaluation import BaselineKind
from finetune_trainer.report.changes import GenerationChanges, ScoredRow
from finetune_trainer.report.format import format_value
from finetune_trainer.tasks.base import template_of
from finetune_trainer.tasks.question_answering import presentation
from finetune_trainer.tasks.question_answering.presentation import Segment, baseline_note, segments

CONTEXT = "The boiler was built in Leeds by the night crew."


def a_row(**spans: Any) -> dict[str, Any]:
    return {"context": CONTEXT, "answerSpans": [], "baselineSpan": None, "tunedSpan": None, **spans}


def test_answers_that_overlap_are_divided_where_one_begins_or_ends() -> None:
    found = segments(a_row(answerSpans=[[24, 29]], baselineSpan=[15, 29], tunedSpan=[24, 32]))
    assert found == [
        Segment("The boiler was ", ()),
        Segment("built in ", ("baseline",)),
        Segment("Leeds", ("reference", "baseline", "tuned")),
        Segment(" by", ("tuned",)),
        Segment(" the night crew.", ()),
    ]


@pytest.mark.parametrize("spans", [{}, {"answerSpans": [[0, 3], [44, 48]], "tunedSpan": [0, 48]}])
def test_the_segments_are_the_context(spans: dict[str, Any]) -> None:
    assert "".join(segment.text for segment in segments(a_row(**spans))) == CONTEXT


def test_a_long_context_is_shown_around_the_answers() -> None:
    context = "x" * 5000 + "Leeds" + "y" * 5000 + "York" + "z" * 5000
    row = a_row(context=context, answerSpans=[[5000, 5005]], tunedSpan=[10005, 10009])
    found = segments(row)
    assert [segment.text for segment in found if segment.kinds] == ["Leeds", "York"]
    assert [segment.text for segment in found if "…" in segment.text] == [" … ", " … ", " …"]
    assert sum(len(segment.text) for segment in found) < 1000


def test_without_answers_the_beginning_is_shown() -> None:
    found = segments(a_row(context="x" * 5000))
    assert [len(segment.text) for segment in found] == [480, 2]


def test_the_baseline_note_names_both_candidates_and_the_rules() -> None:
    details = {
        "chosenBy": "SQuAD F1 on the validation split",
        "noAnswer": {"f1": 0.25},
        "linearProbe": {"f1": 0.5, "trainWindows": 1234},
    }
    note = baseline_note(details)
    assert "0.500 (fitted on 1,234 windows of the training data), no answer to any question 0.250" in note
    assert note.endswith(baseline_note({}))
    assert "by the rules of SQuAD 2.0" in baseline_note({})


def test_texts_in_the_report_are_escaped_and_marked() -> None:
    attack = "<script>alert(1)</script>"
    row = a_row(
        question=attack,
        context=f"{attack} in Leeds",
        answers=[attack],
        answerSpans=[[0, len(attack)]],
        baseline="",
        tuned="Leeds",
        tunedSpan=[len(attack) + 4, len(attack) + 9],
        source="train.json:1",
        id=attack,
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"short": str, "grouped": str}
    environment.globals["compared"] = BaselineKind.BASE_MODEL.compared
    render = template_of(str(presentation.__package__), "report.html.jinja", environment)
    page = render(
        changes=GenerationChanges("squad_f1", 0, 1, 0, [], [ScoredRow(row, 1.0, 0.0, -1.0)], [], []),
        metric_name="SQuAD F1",
        format_value=format_value,
        segments=segments,
        counts=[("test", 1, 0)],
        decoding=None,
        unanswered={"baseline": 1, "tuned": 0},
    )
    assert "<script" not in page
    assert '<mark class="reference" title="reference">&lt;script&gt;' in page
    assert '<mark class="tuned" title="tuned">Leeds</mark>' in page
    assert '<span class="quiet">no answer</span>' in page
