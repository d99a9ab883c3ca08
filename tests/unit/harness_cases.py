"""Specs with tasks of lm-eval, as arguments of `api_cases.documents`."""

from __future__ import annotations

from typing import Any

NO_TASK = "a gate on task/metric needs the task in harness"
PATH_ALONE = "harnessPath has no effect without harness"


def gated(metric: str, **bound: float) -> dict[str, Any]:
    return {
        "evaluation": {"harness": ["arc_easy", "gsm8k"], "gates": [{"metric": metric, **(bound or {"minimum": 0.5})}]}
    }


HARNESS_CASES: tuple[tuple[Any, ...], ...] = (
    ("tasks of lm-eval", {"evaluation.harness": ["arc_easy", "tmmluplus_(profession_level)"]}),
    ("no tasks of lm-eval", {"evaluation.harness": []}),
    (
        "task files",
        {"evaluation": {"harness": ["mine"], "harnessPath": {"uri": "s3://b/t", "secretRef": {"name": "s"}}}},
    ),
    ("task files alone", {"evaluation.harnessPath.uri": "s3://b/t"}, PATH_ALONE),
    ("task files of no task", {"evaluation": {"harness": [], "harnessPath": {"uri": "s3://b/t"}}}, PATH_ALONE),
    ("gate on a task", gated("arc_easy/acc")),
    ("gate on a filtered metric", gated("gsm8k/exact_match,strict-match")),
    ("gate on a metric of unknown range", gated("gsm8k/word_perplexity", maximum=300)),
    (
        "gate on a task in percent",
        gated("arc_easy/acc", minimum=50),
        "acc_mutual_info, exact_match of a task of lm-eval",
    ),
    ("gate on a filter in percent", gated("gsm8k/exact_match,strict-match", minimum=50), "of a task of lm-eval"),
    ("gate on a correlation", gated("arc_easy/mcc", minimum=-0.5)),
    ("gate beyond a correlation", gated("arc_easy/mcc", minimum=-2), "mcc range from -1 to 1"),
    ("gate on BLEU", gated("arc_easy/bleu", minimum=50)),
    ("gate beyond chrF++", gated("arc_easy/chrf++", minimum=101), "bleu, chrf, chrf++ of a task of lm-eval"),
    ("gate on another task", gated("arc_challenge/acc"), NO_TASK),
    ("gate on no metric", gated("acuracy"), "a metric is one of accuracy, "),
    ("gate on the start of a name", gated("arc/acc"), NO_TASK),
    (
        "tasks of a classification",
        {"task.type": "TextClassification", "evaluation.harness": ["arc_easy"]},
        "TextClassification gives none",
    ),
    ("a task twice", {"evaluation.harness": ["a", "a"]}, "harness tasks must be different", "Duplicate value"),
)
