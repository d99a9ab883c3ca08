"""Metrics of lm-eval for two models: pairing by example, intervals, and values that are no numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from finetune_api.evaluation import GateResult, MetricResult
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import EvaluationSpec, Gate, HarnessMetric, Metric
from finetune_api.stage import TERMINATION_MESSAGE_LIMIT, EvaluateResult, Stage, StageReport
from finetune_trainer.evaluate.gates import check_gates
from finetune_trainer.evaluate.intervals import ratio_interval, resampled_interval
from finetune_trainer.evaluate.power import notes_after, notes_before
from finetune_trainer.harness.results import paired_result
from tests.builders import DIGEST, an_evaluation

ACC = HarnessMetric("task/acc")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def perplexity(values: list[tuple[float, int]]) -> float:
    return math.exp(-sum(nats for nats, _ in values) / sum(words for _, words in values))


class TestPairing:
    def test_does_not_depend_on_the_order_of_the_examples(self) -> None:
        tuned = {0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0}
        results = [
            paired_result(ACC, baseline, tuned, mean, mean=True, higher_is_better=True, seed=1)
            for baseline in ({0: 0.0, 1: 0.0, 2: 1.0, 3: 0.0}, {3: 0.0, 2: 1.0, 1: 0.0, 0: 0.0})
        ]
        assert results[0] == results[1]
        assert (results[0].baseline, results[0].tuned, results[0].change) == (0.25, 0.75, 0.5)
        before, after = np.array([0, 0, 1.0, 0]), np.array([1.0, 0, 1, 1])
        assert results[0].interval == ratio_interval(before, after, np.ones(4), seed=1)

    def test_refuses_models_with_other_examples(self) -> None:
        with pytest.raises(StageFailure) as failure:
            paired_result(ACC, {0: 1.0}, {1: 1.0}, mean, mean=True, higher_is_better=True, seed=1)
        assert failure.value.reason is Reason.INTERNAL_ERROR

    def test_computes_other_metrics_again_for_each_resample(self) -> None:
        generator = np.random.default_rng(3)
        before = {n: (-float(nats), 5) for n, nats in enumerate(generator.gamma(9, 1, 40))}
        after = {n: (nats * 0.8, words) for n, (nats, words) in before.items()}
        name = HarnessMetric("task/word_perplexity")
        result = paired_result(name, before, after, perplexity, mean=False, higher_is_better=False, seed=1)
        assert result.tuned == perplexity(list(after.values()))
        low, high = result.interval
        assert low < result.change < high < 0
        assert result.verdict == "better"

    @pytest.mark.parametrize("value", [-1e9, math.nan])
    def test_refuses_values_that_are_not_finite(self, value: float) -> None:
        name = HarnessMetric("task/word_perplexity")
        with pytest.raises(StageFailure, match="task/word_perplexity of the tuned model is not finite") as failure:
            paired_result(name, {0: (-1.0, 1)}, {0: (value, 1)}, perplexity, mean=False, higher_is_better=False, seed=1)
        assert failure.value.reason is Reason.DIVERGED


def test_resamples_that_are_not_finite_do_not_count() -> None:
    def change(rows: list[int]) -> float:
        if 0 in rows:
            raise OverflowError
        return float(np.mean(rows))

    low, high = resampled_interval(change, 4, seed=1, resamples=300)
    assert 1 <= low <= high <= 3


def row(name: str, change: float = 0.1) -> MetricResult:
    metric = HarnessMetric(name) if "/" in name else Metric(name)
    return MetricResult(
        name=metric, baseline=0.5, tuned=0.5 + change, change=change, interval=(-0.1, 0.3), higher_is_better=True
    )


class TestGates:
    spec = EvaluationSpec.model_validate(
        {"harness": ["task"], "gates": [{"metric": "task/acc", "minimumImprovement": 0.2}]}, strict=False
    )

    def test_name_metrics_of_tasks(self) -> None:
        gate, score = check_gates(self.spec, [row("accuracy"), row("task/acc")])
        assert (gate.metric, gate.passed) == ("task/acc", False)
        assert score.not_worse

    @pytest.mark.parametrize("name", ["task/", "/acc", "task/acc/x", "task/a b", f"task/{'a' * 200}"])
    def test_have_names_of_two_parts(self, name: str) -> None:
        with pytest.raises(ValidationError, match="a metric is one of accuracy"):
            Gate.model_validate_json(f'{{"metric": "{name}", "minimum": 0.5}}')

    def test_have_no_notes_about_the_test_split(self) -> None:
        assert notes_before(self.spec, 5) == []
        assert notes_after(self.spec, [row("accuracy")], 10) == []


class TestTerminationMessage:
    def test_leaves_out_rows_that_no_gate_names(self) -> None:
        rows = [row("accuracy"), *(row(f"a_task_with_a_rather_long_name_{n}/acc_norm") for n in range(40))]
        gate = GateResult(metric=rows[30].name, minimum=0.1, value=0.6, passed=True)
        evaluation = an_evaluation(gate).model_copy(update={"metrics": tuple(rows)})
        result = EvaluateResult(uri="s3://bucket/evaluated", digest=DIGEST, evaluation=evaluation)
        message = StageReport(stage=Stage.EVALUATE, attempt=1, seconds=1.0, result=result).to_termination_message()
        assert len(message) <= TERMINATION_MESSAGE_LIMIT
        read = StageReport.model_validate_json(message).result
        assert isinstance(read, EvaluateResult)
        assert [one.name for one in read.evaluation.metrics] == ["accuracy", rows[30].name]
        assert isinstance(read.evaluation.metrics[1].name, HarnessMetric)
