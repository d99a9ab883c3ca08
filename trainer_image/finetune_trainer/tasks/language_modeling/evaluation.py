"""LanguageModeling: compares the likelihood of the test documents under the tuned model and the base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_api.evaluation import MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.evaluate.intervals import ratio_interval
from finetune_trainer.evaluate.likelihood import LIKELIHOOD, Likelihood, likelihood_interval
from finetune_trainer.evaluate.metrics import Floats, Ints, metric_result, ratio
from finetune_trainer.evaluate.prompts import next_tokens
from finetune_trainer.evaluate.token_scores import token_scores
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.loading import check_vocabulary
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.prepared import IGNORED_LABEL, DataReport
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.language_modeling.cutting import windows


class Windows:
    """The windows over documents, in order; implements `finetune_trainer.evaluate.token_scores.Scored`."""

    def __init__(self, documents: TokenRows, data: DataReport) -> None:
        """
        Args:
            documents: The tokens of each document, as in the prepared data.
            data: The report about the prepared data.
        """
        # Something must be before the first token of a text: in the rows of the training, it follows an end.
        self.context = data.start_tokens or data.end_tokens[:1]
        tokens, labels = [], []
        counts = np.zeros(len(documents), np.int64)
        for document in range(len(documents)):
            row = documents[document] if data.start_tokens else np.concatenate([self.context, documents[document]])
            for start, stop, predicted in windows(len(row), len(self.context), data.max_sequence_length):
                window = row[start:stop].astype(np.int32)
                tokens.append(window)
                labels.append(np.where(np.arange(start, stop) < predicted, IGNORED_LABEL, window).astype(np.int32))
                counts[document] += 1
        self.counts = counts
        """Windows of each document, of shape (documents,)."""
        self.predicted = documents.lengths - len(data.start_tokens)
        """Predicted tokens of each document, of shape (documents,)."""
        self._tokens, self._labels = _rows(tokens), _rows(labels)
        self.lengths = self._tokens.lengths

    def check(self, model: Any) -> None:
        """Check that ``model`` has an embedding for every token.

        Raises:
            StageFailure: BadConfiguration when it lacks one.
        """
        check_vocabulary(model, self._tokens)

    def score(self, model: Any, batch: Ints, padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return next_tokens(model, self._tokens, self._labels, batch=batch, padding=padding, device=device)


@dataclass(frozen=True)
class DocumentScores:
    """Results of a model, in the order of the documents."""

    losses: list[NDArray[np.float32]]
    """The loss of each predicted token, in nats, of shape (tokens,) for each document."""
    nll: Floats
    """Negative log-likelihood of each document, in nats, of shape (documents,)."""
    hits: Floats
    """Share of the predicted tokens that have the highest logit, of shape (documents,)."""


def scored(inputs: EvaluationInputs, found: Windows, name: str, model: Any) -> DocumentScores:
    """The scores of ``model``, the baseline or the tuned model as ``name`` says.

    Raises:
        StageFailure: As `compare`.
    """
    found.check(model)
    counter = ExampleCounter(inputs.reporter, f"measuring the likelihood ({name})", len(found.lengths), "windows")
    scores = token_scores(inputs, found, name, model, counter.add)
    bounds = np.concatenate([[0], np.cumsum(found.counts)]).tolist()
    spans = [slice(*pair) for pair in pairwise(bounds)]
    losses = [np.concatenate(scores.losses[span]) for span in spans]
    hits = [np.concatenate(scores.hits[span]).mean() for span in spans]
    return DocumentScores(losses, np.array([row.sum(dtype=np.float64) for row in losses]), np.array(hits))


def compare(inputs: EvaluationInputs) -> Comparison:
    """Run baseline and tuned model on the test split.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), Diverged (a loss that is not finite),
            OutOfMemory.
    """
    table = open_split(inputs.prepared, SPLIT)
    found = Windows(TokenRows.of_column(table["input_ids"]), inputs.data)
    sources, documents = table["source"].to_pylist(), table["text"].to_pylist()
    sizes = np.array([len(text.encode()) for text in documents], np.float64)
    scores: dict[str, DocumentScores] = {} if inputs.tuned_output is None else {"tuned": inputs.tuned_output}
    for name, model in inputs.models():
        scores[name] = scored(inputs, found, name, model)
        del model  # Frees its memory for the next model.
    tokens = found.predicted.astype(np.float64)
    both = {name: Likelihood(of_model.nll, tokens, sizes) for name, of_model in scores.items()}
    metrics = inputs.spec.metrics
    shown = {metric: {name: _of_each(metric, both[name], scores[name]) for name in both} for metric in metrics}
    predictions = [
        {
            "source": source,
            "text": text,
            "tokens": int(tokens[index]),
            "bytes": int(sizes[index]),
            "nll": {name: float(of_model.nll[index]) for name, of_model in both.items()},
            "scores": {
                str(metric): {name: float(values[index]) for name, values in of_metric.items()}
                for metric, of_metric in shown.items()
            },
        }
        for index, (source, text) in enumerate(zip(sources, documents, strict=True))
    ]
    seed = inputs.spec.training.seed

    def measure(part: Ints) -> tuple[MetricResult, ...]:
        likelihoods = {name: likelihood.take(part) for name, likelihood in both.items()}
        hits = {name: of_model.hits[part] for name, of_model in scores.items()}
        return tuple(_result(metric, likelihoods, hits, seed) for metric in metrics)

    details = _details(inputs, found, both, scores)
    results = measure(np.arange(len(table)))
    return Comparison(inputs.baseline_kind, details, results, measure, predictions, tuned_output=scores["tuned"])


def _of_each(metric: Metric, likelihood: Likelihood, scores: DocumentScores) -> Floats:
    return likelihood.scores(metric) if metric in LIKELIHOOD else scores.hits


def _result(metric: Metric, both: dict[str, Likelihood], hits: dict[str, Floats], seed: int) -> MetricResult:
    before, after = both["baseline"], both["tuned"]
    if metric in LIKELIHOOD:
        interval = likelihood_interval(metric, before, after, seed)
        return metric_result(metric, before.score(metric), after.score(metric), interval)
    baseline, tuned = hits["baseline"], hits["tuned"]
    interval = ratio_interval(baseline, tuned, before.tokens, seed=seed)
    return metric_result(metric, ratio(baseline, before.tokens), ratio(tuned, before.tokens), interval)


def _details(
    inputs: EvaluationInputs, found: Windows, both: dict[str, Likelihood], scores: dict[str, DocumentScores]
) -> dict[str, Any]:
    """Over what the metrics are, for evaluation.json and the report."""
    tokenizer = load_prepared_tokenizer(inputs.prepared)
    length, several = inputs.data.max_sequence_length, int((found.counts > 1).sum())
    return {
        "scoredTokens": int(found.predicted.sum()),
        "scoredEnds": len(found.predicted),
        "bytes": int(both["tuned"].bytes.sum()),
        "before": "".join(tokenizer.convert_ids_to_tokens(list(found.context))),
        "windows": int(found.counts.sum()),
        "windowLength": length,
        **({"documentsInSeveralWindows": several, "leastContext": length // 2} if several else {}),
        "nll": {name: float(likelihood.nll.sum()) for name, likelihood in both.items()},
        "lossByPosition": by_position({name: of_model.losses for name, of_model in scores.items()}),
    }


def by_position(losses: dict[str, list[NDArray[np.float32]]]) -> list[dict[str, Any]]:
    """The mean loss of each model by the position of the token in its document, in ranges that double in width."""
    longest = max(map(len, next(iter(losses.values()))))
    found = []
    for exponent in range(longest.bit_length()):
        span = slice(2**exponent - 1, 2 ** (exponent + 1) - 1)
        parts = {name: [row[span] for row in rows] for name, rows in losses.items()}
        tokens = sum(map(len, next(iter(parts.values()))))
        means = {name: float(sum(part.sum(dtype=np.float64) for part in rows) / tokens) for name, rows in parts.items()}
        found.append({"from": span.start + 1, "to": min(span.stop, longest), "tokens": tokens, **means})
    return found


def _rows(rows: Sequence[NDArray[np.int32]]) -> TokenRows:
    return TokenRows(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))
