"""Results and progress of a stage as text for people."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.evaluation import BaselineKind, Evaluation, MetricResult
from finetune_api.job import EvaluationStatus, FineTuneJobStatus, ProgressStatus
from finetune_api.stage import (
    EvaluateResult,
    PrepareResult,
    Progress,
    PublishResult,
    RespondResult,
    SearchSummary,
    StageReport,
    TeacherAnswers,
    TrainResult,
)
from finetune_api.text import duration

BASELINE_NAMES = {
    BaselineKind.BASE_MODEL: "base model",
    BaselineKind.LINEAR_PROBE: "linear probe",
    BaselineKind.MAJORITY_CLASS: "majority class",
    BaselineKind.NO_ANSWER: "no answer",
    BaselineKind.PREVIOUS: "previous",
    BaselineKind.PLAIN_PROMPT: "plain prompt",
}
REFERENCE_NAMES = {**BASELINE_NAMES, BaselineKind.PREVIOUS: "adapter that training continued from"}
"""What rewards are measured against."""


def summary(report: StageReport) -> str:
    """The result of a stage: ``4967 training, 621 validation and 621 test examples; 34 duplicates dropped``."""
    match report.result:
        case PrepareResult():
            return _prepared(report.result)
        case RespondResult():
            return _responded(report.result)
        case TrainResult():
            return _trained(report.result)
        case EvaluateResult():
            return _evaluated(report.result)
        case PublishResult():
            return _published(report.result)
        case None:
            return ""


def progress_status(progress: Progress) -> ProgressStatus:
    """``progress`` for printer columns: its ETA is rounded, so that the status changes less often."""
    done, total = progress.done, progress.total
    counted = done is not None and total is not None
    return ProgressStatus(
        stage=progress.stage,
        text=f"{progress.stage} {done}/{total}" if counted else f"{progress.stage}: {progress.activity}"[:256],
        percent=min(100, 100 * done // total) if done is not None and total else None,
        eta=None if progress.eta_seconds is None else duration(progress.eta_seconds),
        loss=None if progress.loss is None else round(progress.loss, 4),
        tokens_per_second=None if progress.tokens_per_second is None else round(progress.tokens_per_second, 1),
    )


def evaluation_status(evaluation: Evaluation, uri: str) -> EvaluationStatus:
    """``evaluation``, whose report is in the directory ``uri``, with its first metric as text."""
    first = evaluation.metrics[0] if evaluation.metrics else None
    return EvaluationStatus(
        **{name: getattr(evaluation, name) for name in Evaluation.model_fields},
        uri=uri,
        metric=str(first.name) if first else "",
        baseline_score=baseline_score(first) if first else "",
        score=score(first.tuned) if first else "",
    )


def score(value: float) -> str:
    """A metric's value for people: four decimals, or four significant digits if it is huge."""
    return f"{value:.4f}" if abs(value) < 1e9 else f"{value:.4g}"


def baseline_score(metric: MetricResult) -> str:
    """The value of the baseline for people; empty for a metric of rewards, which the baseline has no score in."""
    return "" if metric.baseline is None else score(metric.baseline)


def size(count: int) -> str:
    """Bytes for people: ``1.4 MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _prepared(result: PrepareResult) -> str:
    sentence = _counts(result.examples)
    if result.labels:
        sentence += f", {result.labels} labels"
    dropped = [
        f"{count:,} {name}{'' if count == 1 else 's'}"
        for name, count in (("duplicate", result.duplicates), ("invalid row", result.invalid))
        if count
    ]
    parts = [
        sentence,
        *([f"{_listed(dropped)} dropped"] if dropped else []),
        *([_answers(result.responses)] if result.responses else []),
        *result.notes,
    ]
    if result.detected:
        parts.append(f"read as {result.detected}")
    return "; ".join(parts)


def _responded(result: RespondResult) -> str:
    return "; ".join([_answers(result.responses), _counts(result.examples), *result.notes])


def _counts(examples: Mapping[str, int]) -> str:
    """The examples of each split: ``4,967 training, 621 validation and 621 test examples``."""
    known = [(name, examples.get(key)) for key, name in _SPLIT_NAMES.items()]
    counts = [f"{count:,} {name}" for name, count in known if count is not None]
    return f"{_listed(counts)} examples" if counts else "no examples"


def _answers(answers: TeacherAnswers) -> str:
    tokens = answers.prompt_tokens + answers.completion_tokens
    spent = [
        *([f"{answers.requests:,} requests"] if answers.requests is not None else []),
        *([f"{answers.kept:,} answers kept from before"] if answers.kept else []),
        f"{tokens:,} tokens",
        *([f"{answers.cost:,.2f} {answers.currency}"] if answers.cost is not None else []),
    ]
    left_out = f"; left out: {'; '.join(answers.problems)}" if answers.problems else ""
    return (
        f"the teacher answered {answers.used:,} of {answers.used + answers.left_out:,} prompts "
        f"({', '.join(spent)}){left_out}"
    )


_SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def _trained(result: TrainResult) -> str:
    if result.search is not None:
        return _searched(result, result.search)
    parts = [f"{result.steps:,} steps", f"{result.epochs:.3g} epochs"]
    if result.loss is not None:
        parts.append(f"loss {result.loss:.4g}")
    if result.validation_loss is not None:
        parts.append(f"validation loss {result.validation_loss:.4g}")
    parts.append(f"{result.tokens_per_second:,.0f} tokens/s")
    return ", ".join(parts) + ("; stopped early" if result.stopped_early else "")


def _searched(result: TrainResult, search: SearchSummary) -> str:
    ended = "; the token budget ended the search" if result.stopped_early else ""
    return (
        f"{result.steps:,} of {search.distinct:,} combinations, validation {search.metric} {score(search.best)}, plain "
        f"prompt {score(search.plain)}, {result.tokens:,} tokens{ended}"
    )


def _evaluated(result: EvaluateResult) -> str:
    evaluation = result.evaluation
    if not evaluation.metrics:
        return f"no metrics for {evaluation.examples:,} examples"
    first = evaluation.metrics[0]
    baseline = BASELINE_NAMES[evaluation.baseline.kind]
    compared = f"against the {baseline}" if first.baseline is None else f"{baseline} {score(first.baseline)}"
    teacher = "" if first.teacher is None else f"teacher {score(first.teacher)}, "
    return (
        f"{first.name} {score(first.tuned)}, {compared} ({first.change:+.4f}, "
        f"{first.verdict}), {teacher}"
        f"on {evaluation.examples:,} {evaluation.split} examples"
    )


def _published(result: PublishResult) -> str:
    return f"{size(result.size)} at {result.uri}" + (f"; {result.note}" if result.note else "")


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def revision_change(before: FineTuneJobStatus, after: FineTuneJobStatus) -> str:
    """Why a job continues as another revision, as a sentence."""
    number, training = after.revision, after.training
    if before.spec_digest == after.spec_digest:
        return (
            f"The storage of revision {before.revision} belongs to an earlier job of the same name, or to other data; "
            f"continuing as revision {number}."
        )
    if number <= before.revision:
        return f"The spec is that of revision {number} again; continuing with that revision."
    if training and training.revision != number:
        return (
            f"The spec has changed, but not its training; revision {number} uses that of revision {training.revision}."
        )
    return f"The spec has changed; starting revision {number}."
