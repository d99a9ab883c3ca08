"""QuestionAnswering with an encoder: compares the tuned model with its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from finetune_api.evaluation import BaselineKind, MetricResult, SpanDecoding
from finetune_api.spec import Metric
from finetune_trainer.evaluate.base_score import BaseScore
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.evaluate.intervals import ratio_interval
from finetune_trainer.evaluate.linear_probe import Features
from finetune_trainer.evaluate.metrics import Ints, metric_result, ratio
from finetune_trainer.modelling.loading import check_finite
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.question_answering.answering import Predicted, Questions, SpanRunner, pairs
from finetune_trainer.tasks.question_answering.batches import Windows
from finetune_trainer.tasks.question_answering.kinds import measured_metrics
from finetune_trainer.tasks.question_answering.probe import REGULARISATION, TOKENS, SpanHead, TokenFeatures
from finetune_trainer.tasks.question_answering.scoring import QUESTION_METRICS, Scores, weights
from finetune_trainer.tasks.question_answering.spans import (
    LONGEST_ANSWER,
    BestSpans,
    choose_threshold,
)


@dataclass(frozen=True)
class Result:
    """A model with its threshold: its answers to the test questions, and its F1 on validation."""

    kind: BaselineKind
    test: Predicted
    threshold: float | None
    validation_f1: float
    details: dict[str, Any]


def compare(inputs: EvaluationInputs) -> Comparison:
    """Run baseline and tuned model on the test split; their thresholds are chosen on the validation split.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), BadData (no test question for a metric of the
            spec), Diverged (outputs that are not finite), OutOfMemory.
    """
    comparing = _Comparing(inputs)
    metrics = comparing.metrics
    baseline = comparing.baseline()
    tuned: Result = comparing.tuned() if inputs.tuned_output is None else inputs.tuned_output

    def measure(part: Ints) -> tuple[MetricResult, ...]:
        found = [comparing.result(metric, baseline.test.scores, tuned.test.scores, part) for metric in metrics]
        return tuple(result for result in found if result is not None)

    results = measure(np.arange(len(tuned.test.texts)))
    decoding = SpanDecoding(
        longest_answer=comparing.longest, threshold=tuned.threshold, baseline_threshold=baseline.threshold
    )
    rows = comparing.rows(baseline.test, tuned.test)
    return Comparison(
        baseline.kind, baseline.details, results, measure, rows, tuned_output=tuned, span_decoding=decoding
    )


def base_score(inputs: EvaluationInputs) -> BaseScore:
    """The SQuAD F1 of the base model's span head, of a linear one on the frozen model, or of no answer.

    Raises:
        StageFailure: As `compare`.
    """
    found = _Comparing(inputs).baseline()
    return BaseScore(f"SQuAD F1 of the {_BASELINES[found.kind]}", float(found.test.scores.f1.mean()), True)


_BASELINES = {
    BaselineKind.BASE_MODEL: "base model",
    BaselineKind.LINEAR_PROBE: "linear probe",
    BaselineKind.NO_ANSWER: "answer 'none'",
}


class _Comparing:
    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs = inputs
        self._table = open_split(inputs.prepared, SPLIT)
        self._train = open_split(inputs.prepared, "train")
        self._test = Questions(self._table)
        self._validation = Questions(open_split(inputs.prepared, "validation"))
        self.metrics = measured_metrics(inputs.spec, self._test.references)
        self.longest = max(LONGEST_ANSWER, Windows.of(self._train).longest_answer)
        self._runner = SpanRunner(inputs)

    def baseline(self) -> Result:
        """The model that was published before, if the job asks for it; the base model, if it has a trained span head;
        otherwise the better on validation of no answer and a linear
        span head.
        """
        if self._inputs.previous is not None:
            return self.of_model(self._inputs.previous_model(), "baseline", BaselineKind.PREVIOUS)
        loaded = self._inputs.load(self._inputs.base)
        if not loaded.random:
            return self.of_model(loaded.model, "baseline")
        del loaded
        none = Predicted.none(self._validation)
        none_f1 = float(none.scores.f1.mean())
        head = self._head()
        details = {
            "chosenBy": "SQuAD F1 on the validation split",
            "noAnswer": {"f1": none_f1},
            "linearProbe": {"f1": head.validation_f1, **head.details},
        }
        if head.validation_f1 > none_f1:
            return Result(head.kind, head.test, head.threshold, head.validation_f1, details)
        return Result(BaselineKind.NO_ANSWER, Predicted.none(self._test), None, none_f1, details)

    def tuned(self) -> Result:
        """The answers of the tuned model."""
        inputs = self._inputs
        return self.of_model(inputs.method.tuned(inputs.load, inputs.base, inputs.trained), "tuned")

    def of_model(self, model: Any, name: str, kind: BaselineKind = BaselineKind.BASE_MODEL) -> Result:
        """The answers of a model with a span head."""
        best = []
        for split, questions in (("validation", self._validation), ("test", self._test)):
            activity = f"answering {split} questions with the {name} model"
            best.append(self._runner.best_spans(model, name, questions, self.longest, activity))
        return self._decided(kind, best[0], best[1], {})

    def result(self, metric: Metric, baseline: Scores, tuned: Scores, part: Ints) -> MetricResult | None:
        """The result of a metric on a part of the questions; None if it is about none of them."""
        weighted = weights(metric, self._test.references)[part]
        if not weighted.any():
            return None
        values = baseline.values(metric)[part], tuned.values(metric)[part]
        interval = ratio_interval(*values, weighted, seed=self._inputs.spec.training.seed)
        return metric_result(metric, ratio(values[0], weighted), ratio(values[1], weighted), interval)

    def rows(self, baseline: Predicted, tuned: Predicted) -> list[dict[str, Any]]:
        """The rows of predictions.jsonl."""
        columns = [self._table[name].to_pylist() for name in ("source", "id", "question", "answer_spans")]
        counted = {metric: weights(metric, self._test.references) for metric in QUESTION_METRICS}
        rows = []
        for index, (source, name, question, spans) in enumerate(zip(*columns, strict=True)):
            scores = {
                metric: {
                    "baseline": float(baseline.scores.values(metric)[index]),
                    "tuned": float(tuned.scores.values(metric)[index]),
                }
                for metric in QUESTION_METRICS
                if counted[metric][index]
            }
            rows.append(
                {
                    "source": source,
                    **({"id": name} if name else {}),
                    "question": question,
                    "context": self._test.contexts[index],
                    "answers": self._test.references[index],
                    "answerSpans": pairs(spans),
                    "baseline": baseline.texts[index],
                    "baselineSpan": baseline.spans[index],
                    "tuned": tuned.texts[index],
                    "tunedSpan": tuned.spans[index],
                    "scores": scores,
                }
            )
        return rows

    def _decided(self, kind: BaselineKind, validation: BestSpans, test: BestSpans, details: dict[str, Any]) -> Result:
        """Choose the threshold on validation, and answer the test questions with it."""
        answered = Predicted.of(self._validation, validation, None).scores.f1
        unanswered = Predicted.none(self._validation).scores.f1
        threshold = choose_threshold(validation.margin, answered, unanswered)
        of_validation = Predicted.of(self._validation, validation, threshold)
        f1 = float(of_validation.scores.f1.mean())
        return Result(kind, Predicted.of(self._test, test, threshold), threshold, f1, details)

    def _head(self) -> Result:
        """The linear span head with the strength of regularisation that is best on validation."""
        backbone = self._inputs.load_as(AutoModel, self._inputs.base).model
        train = Questions(self._train)
        chosen = _sample(train.windows, self._inputs.spec.training.seed)
        fitted, _ = self._features(backbone, train, "train", chosen)
        others = {name: self._features(backbone, own, name, None)[1] for name, own in self._splits().items()}
        counter = ExampleCounter(self._inputs.reporter, "fitting the linear span head", len(chosen))
        head = SpanHead(fitted.values)
        best: Result | None = None
        for strength in REGULARISATION:
            head.fit(fitted, strength, lambda: counter.add(0))
            validation, test = (self._best(head, others[name], own) for name, own in self._splits().items())
            details = {"regularisation": strength, "trainWindows": len(chosen)}
            result = self._decided(BaselineKind.LINEAR_PROBE, validation, test, details)
            if best is None or result.validation_f1 > best.validation_f1:
                best = result
        assert best is not None
        return best

    def _splits(self) -> dict[str, Questions]:
        return {"validation": self._validation, "test": self._test}

    def _features(
        self, backbone: Any, questions: Questions, name: str, chosen: Ints | None
    ) -> tuple[TokenFeatures, list[Features]]:
        """The last hidden states of the null position and the context of each window, in the order of ``chosen``."""
        windows = questions.windows
        listed = np.arange(len(windows)) if chosen is None else chosen
        states: dict[int, Features] = {}

        def read(hidden: torch.Tensor, batch: Ints) -> None:
            check_finite(hidden, "baseline", "hidden state")
            for row, window in zip(hidden.cpu().numpy(), batch, strict=True):
                kept = row[questions.positions(int(window))]
                states[int(window)] = np.concatenate([row[[windows.nulls[window]]], kept])

        self._runner.each(backbone, questions.windows, f"computing features of the base model ({name})", read, listed)
        rows = [states[int(window)] for window in listed]
        firsts = np.cumsum([0, *(len(row) for row in rows)])[:-1]
        # The null position is the first of a window's rows.
        starts = np.where(windows.starts == windows.nulls, 0, windows.starts - windows.context_starts + 1)[listed]
        ends = np.where(windows.ends == windows.nulls, 0, windows.ends - windows.context_starts + 1)[listed]
        counts = np.array([len(row) for row in rows])
        features = TokenFeatures(
            values=np.concatenate(rows),
            windows=np.repeat(np.arange(len(rows)), counts),
            starts=firsts + starts,
            ends=firsts + ends,
        )
        return features, rows

    def _best(self, head: SpanHead, rows: list[Features], questions: Questions) -> BestSpans:
        found = BestSpans.empty(len(questions.windows))
        for window, row in enumerate(rows):
            logits = head.logits(row)
            questions.note(found, window, logits[:, 1:], logits[:, 0].sum(), self.longest)
        return found.of_questions(questions.windows.questions, len(questions))


def _sample(windows: Windows, seed: int) -> Ints:
    """Windows with a label, at random by ``seed``, of at most `TOKENS` tokens; ascending."""
    labelled = np.flatnonzero(windows.starts >= 0)
    order = np.random.default_rng(seed).permutation(labelled)
    kept = np.cumsum(windows.context_lengths[order] + 1) <= TOKENS
    kept[0] = True
    return np.sort(order[kept])
