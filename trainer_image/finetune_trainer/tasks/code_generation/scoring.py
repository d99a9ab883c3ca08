"""Metrics of generated code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.evaluate.answer_scoring import Samples, signatures
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric, corpus_metric
from finetune_trainer.evaluate.metrics import Floats, Ints
from finetune_trainer.sandbox.programs import Outcome, Program
from finetune_trainer.tasks.code_generation.parsing import parser_of
from finetune_trainer.tasks.code_generation.preparation import check_tested
from finetune_trainer.tasks.code_generation.stopping import stop_of

Run = Callable[[Sequence[Program]], list[Outcome]]
"""Runs programs."""


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that one of ``k`` programs passes, estimated without bias from more of them (Chen et al. 2021).

    It is 1 − C(n − c, k) / C(n, k) for n ``samples``, of which c have ``passed``.

    Raises:
        ValueError: There are fewer samples than ``k``.
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}")
    return 1 - comb(samples - passed, k) / comb(samples, k)


def exact_match(answer: str, reference: str) -> float:
    """1 if both texts are equal up to line breaks at the end, else 0: all other white space is content."""
    return float(answer.rstrip("\r\n") == reference.rstrip("\r\n"))


class CodeScoring:
    """Implements `finetune_trainer.evaluate.answer_scoring.AnswerScoring`.

    Metrics other than pass@k are means over the samples. Without ``run``, as in training, no program is run, and no row
    counts in pass@k.
    """

    def __init__(self, table: pa.Table, spec: FineTuneJobSpec, run: Run | None = None) -> None:
        self._spec = spec
        self._run = run
        self._rows = table.select(["source", "prompt", "reference", "tests"]).to_pylist()
        self._stop = stop_of(spec.task.language)
        self._parses = parser_of(spec.task.language)
        self._references = [self._stop.answer(row["prompt"], row["reference"]) for row in self._rows]
        self._outcomes: dict[Program, Outcome] = {}
        self.corpora: Mapping[Metric, CorpusMetric] = {
            metric: corpus for metric in spec.metrics if (corpus := corpus_metric(metric, None))
        }

    @property
    def details(self) -> Mapping[str, Any]:
        tested = sum(bool(row["tests"]) for row in self._rows)
        several = self._spec.evaluation.generation.samples > 1
        return {
            "stopRule": self._stop.sentence,
            **(
                {"overSamples": "exact_match, parses and chrf are means over the answers to a prompt"}
                if several
                else {}
            ),
            **({"rowsWithTests": tested, "rows": len(self._rows)} if self._run else {}),
            **signatures(self.corpora),
        }

    def metrics(self) -> Sequence[Metric]:
        check_tested(self._spec, sum(bool(row["tests"]) for row in self._rows))
        return self._spec.metrics

    def read(self, index: int, answer: str) -> str:
        """The part of an output that counts."""
        return self._stop.answer(self._rows[index]["prompt"], answer)

    def values(self, metric: Metric, answers: Sequence[Samples]) -> Floats:
        if k := metric.row.passes_of:
            return np.array([self._passed(outcomes, k) for outcomes in self.outcomes(answers)])
        if metric is Metric.PARSES:
            return self._means(self._parsed, answers)
        if metric is Metric.EXACT_MATCH:
            return self._means(lambda row, answer: exact_match(answer, self._references[row]), answers)
        of_one = self.corpora[metric].of_one
        return self._means(lambda row, answer: of_one(answer, self._references[row]), answers)

    def statistics(self, metric: Metric, answers: Sequence[Samples]) -> Ints:
        """Sums over the answers to a prompt."""
        count = len(answers[0])
        texts = [answer for samples in answers for answer in samples]
        references = [reference for reference in self._references for _ in range(count)]
        found = self.corpora[metric].statistics(texts, references)
        sums: Ints = found.reshape(len(answers), count, -1).sum(axis=1)
        return sums

    def weights(self, metric: Metric) -> Floats:
        if not metric.row.passes_of:
            return np.ones(len(self._rows))
        return np.array([float(bool(row["tests"]) and self._run is not None) for row in self._rows])

    def outcomes(self, answers: Sequence[Samples]) -> list[list[Outcome]]:
        """How the programs of the answers ended, of the rows with tests; each program is run once."""
        programs = [
            [Program(self._stop.program(row["prompt"], answer), row["tests"]) for answer in samples if row["tests"]]
            for row, samples in zip(self._rows, answers, strict=True)
        ]
        new = list(dict.fromkeys(one for of_row in programs for one in of_row if one not in self._outcomes))
        if self._run and new:
            self._outcomes |= zip(new, self._run(new), strict=True)
        return [[self._outcomes[one] for one in of_row if one in self._outcomes] for of_row in programs]

    def row(self, index: int, baseline: Samples | None, tuned: Samples | None) -> dict[str, Any]:
        """With several samples, ``baseline`` and ``tuned`` are the first ones, and ``samples`` has all."""
        row, given = self._rows[index], {"baseline": baseline, "tuned": tuned}
        several = self._spec.evaluation.generation.samples > 1
        found = {name: self._ended(row, samples or ()) for name, samples in given.items()}
        return {
            **{name: row[name] for name in ("source", "prompt", "reference")},
            **({"tests": row["tests"]} if row["tests"] else {}),
            **{name: samples[0] if samples else None for name, samples in given.items()},
            **({"samples": {name: list(samples or ()) for name, samples in given.items()}} if several else {}),
            **({"outcomes": found} if any(found.values()) else {}),
        }

    def _ended(self, row: Mapping[str, Any], samples: Samples) -> list[dict[str, str]]:
        programs = [Program(self._stop.program(row["prompt"], answer), row["tests"]) for answer in samples]
        found = [self._outcomes[program] for program in programs if program in self._outcomes]
        return [{"ending": str(outcome.ending), "detail": outcome.detail} for outcome in found]

    @staticmethod
    def _passed(outcomes: Sequence[Outcome], k: int) -> float:
        return pass_at_k(len(outcomes), sum(outcome.passed for outcome in outcomes), k) if outcomes else 0.0

    def _parsed(self, row: int, answer: str) -> float:
        assert self._parses is not None  # The API has the metric only for languages with a parser.
        return float(self._parses(self._stop.program(self._rows[row]["prompt"], answer)))

    @staticmethod
    def _means(value: Callable[[int, str], float], answers: Sequence[Samples]) -> Floats:
        return np.array([np.mean([value(row, answer) for answer in samples]) for row, samples in enumerate(answers)])


def endings(predictions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often programs ended in which way, by model."""
    counts = {
        model: Counter(outcome["ending"] for row in predictions for outcome in row.get("outcomes", {}).get(model, ()))
        for model in ("baseline", "tuned")
    }
    return {model: dict(found.most_common()) for model, found in counts.items()}
