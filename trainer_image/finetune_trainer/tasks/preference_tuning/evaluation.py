"""PreferenceTuning: compares the log-probabilities of answers for the tuned model and the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_api.evaluation import MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate.answer_comparison import score_answers
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs
from finetune_trainer.evaluate.metrics import Floats, Ints
from finetune_trainer.evaluate.prompts import CausalPrompts
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.preference_tuning.preparation import KINDS
from finetune_trainer.tasks.preference_tuning.scoring import Measured

_SIDES = {1: "chosen", -1: "rejected", 0: "neither"}


def compare(inputs: EvaluationInputs) -> Comparison:
    """Measure the answers of the test split with both models.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), Diverged (log-probabilities that are not
            finite), OutOfMemory.
    """
    table = open_split(inputs.prepared, SPLIT)
    preference = inputs.spec.preference
    assert preference is not None
    names = ("chosen", "rejected") if preference.loss.row.paired else ("completion",)
    answers = [_answers(table, name) for name in names]
    sums: dict[str, Floats] = {} if inputs.tuned_output is None else {"tuned": inputs.tuned_output}
    for name, model in inputs.models():
        sums[name] = _sums(inputs, answers, name, model)
        del model  # Frees its memory for the next model.
    started = inputs.reference()
    if started is not None:
        sums["reference"] = _sums(inputs, answers, "baseline", started)
        del started
    measured = Measured(
        sums["baseline"],
        sums["tuned"],
        np.stack([prompts.learned for prompts in answers], axis=1),
        None if preference.loss.row.paired else table["label"].to_numpy() == 1,
        preference.beta,
        sums.get("reference"),
        inputs.reference_kind,
    )
    metrics = inputs.spec.metrics
    rows = [
        {"source": source, "prompt": prompt} | row
        for source, prompt, row in zip(
            table["source"].to_pylist(),
            table["prompt"].to_pylist(),
            _rows(table, names, measured, metrics),
            strict=True,
        )
    ]
    details = {
        "beta": preference.beta,
        "loss": str(preference.loss),
        "ties": _ties(measured, metrics),
        "rewardsAgainst": str(measured.against),
    }
    seed = inputs.spec.training.seed

    def measure(part: Ints) -> tuple[MetricResult, ...]:
        found = measured.take(part)
        return found.results(metrics, seed) if found.defined else ()

    results = measured.results(metrics, seed)
    return Comparison(inputs.baseline_kind, details, results, measure, rows, tuned_output=sums["tuned"])


def _sums(inputs: EvaluationInputs, answers: Sequence[CausalPrompts], name: str, model: Any) -> Floats:
    """Log-probabilities of the answers of each example, of shape (examples, answers); ``name`` is for messages."""
    found = []
    for prompts in answers:
        prompts.check(model)
        losses, _ = score_answers(inputs, prompts, name, model)
        found.append(-losses * prompts.learned)
    return np.stack(found, axis=1)


def _answers(table: pa.Table, name: str) -> CausalPrompts:
    """The prompts with one of their answers, whose tokens have the loss."""
    prompts, answers = (TokenRows.of_column(table[column]) for column in ("prompt_ids", f"{name}_ids"))
    parts, labels = [], []
    for index in range(len(prompts)):
        parts += [prompts[index], answers[index]]
        labels += [np.full(len(prompts[index]), IGNORED_LABEL, np.int32), answers[index]]
    offsets = np.concatenate([[0], np.cumsum(prompts.lengths + answers.lengths)])
    tokens, targets = (TokenRows(np.concatenate(values), offsets) for values in (parts, labels))
    return CausalPrompts(tokens, targets, prompts.lengths, table[name].to_pylist())


def _rows(
    table: pa.Table, names: tuple[str, ...], measured: Measured, metrics: tuple[Metric, ...]
) -> list[dict[str, Any]]:
    """The rows of predictions.jsonl, without source and prompt."""
    texts = [table[name].to_pylist() for name in names]
    rows: list[dict[str, Any]] = []
    shares = {
        metric: (measured.decisions(metric, tuned=False), measured.decisions(metric))
        for metric in metrics
        if metric in (Metric.PREFERRED, Metric.PREFERRED_PER_TOKEN, Metric.REWARD_ACCURACY)
    }
    before, after = (
        (measured.decisions(Metric.PREFERRED, tuned) for tuned in (False, True)) if len(names) > 1 else ((), ())
    )
    for index in range(len(table)):
        row: dict[str, Any] = {name: text[index] for name, text in zip(names, texts, strict=True)}
        scores: dict[str, Any] = {}
        if measured.desirable is not None:
            row |= {"label": KINDS[int(measured.desirable[index])], "baseline": None, "tuned": None}
        else:
            row |= {"baseline": _SIDES[int(before[index])], "tuned": _SIDES[int(after[index])]}
            for metric, (of_baseline, of_tuned) in shares.items():
                found = {"baseline": _half(of_baseline[index]), "tuned": _half(of_tuned[index])}
                scores[str(metric)] = {"tuned": found["tuned"]} if metric.row.neutral is not None else found
            scores[str(Metric.MARGIN)] = {"tuned": float(measured.margins[index])}
        row |= {
            "scores": scores,
            "rewards": dict(zip(names, measured.rewards[index].tolist(), strict=True)),
            "logProbabilities": {
                name: {
                    "baseline": float(measured.baseline[index, side]),
                    "tuned": float(measured.tuned[index, side]),
                    **({} if measured.apart is None else {"reference": float(measured.apart[index, side])}),
                }
                for side, name in enumerate(names)
            },
        }
        rows.append(row)
    return rows


def _half(decision: int) -> float:
    """1 for a pair whose chosen answer is ahead, 0 for the opposite, 0.5 for a tie."""
    return (int(decision) + 1) / 2


def _ties(measured: Measured, metrics: tuple[Metric, ...]) -> dict[str, dict[str, int]]:
    """Pairs that count neither way, by metric and model."""
    ties = {}
    for metric in metrics:
        if measured.desirable is None and metric is not Metric.MARGIN:
            found = {"tuned": int((measured.decisions(metric) == 0).sum())}
            if metric.row.neutral is None:
                found["baseline"] = int((measured.decisions(metric, tuned=False) == 0).sum())
            if any(found.values()):
                ties[str(metric)] = found
    return ties
