"""Whether a published artifact belongs to the base model and the labels of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Quantization
from finetune_trainer.prepared import ModelContent, ModelIdentity
from finetune_trainer.published import Published

_PARTS = {"weights": "weights", "config": "configuration", "tokenizer": "tokenizer"}
_LABELS_SHOWN = 5


def check_base(published: Published, model: ModelIdentity, parts: Sequence[str] = tuple(_PARTS)) -> None:
    """Check that an artifact was trained on ``model``, by content, wherever the files are.

    Args:
        published: The artifact.
        model: The base model of the job.
        parts: The fields of `ModelContent` that must be equal.

    Raises:
        StageFailure: BadConfiguration when it was not, or when that cannot be shown.
    """
    known = published.data.model
    if known.revision == model.revision:
        return
    versions = f"{known.uri} in version {known.revision}, and model.uri is {model.uri} in version {model.revision}"
    if known.content is None or model.content is None:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{published.field}: {published.uri} was trained on {versions}; the digests of their files, which would "
            "show that they are the same model, are not known: use the same address and version as base model",
        )
    different = list(_differences(known.content, model.content, parts))
    if different:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{published.field}: {published.uri} was trained on another base model than model.uri {model.uri}, which "
            f"has another {' and another '.join(different)}; set model.uri to a copy of {known.uri}",
        )


def _differences(known: ModelContent, found: ModelContent, parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        before, now = getattr(known, part), getattr(found, part)
        if before != now:
            noun = "set of weights" if part == "weights" else _PARTS[part]
            yield f"{noun} ({now}, not {before})"


def check_quantization(published: Published, quantization: Quantization) -> None:
    """Check that an artifact was trained on a base model that is stored in the same way.

    Raises:
        StageFailure: BadConfiguration when it was not.
    """
    known = published.spec.model.quantization
    if known is not quantization:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{published.field}: {published.uri} was trained with model.quantization {known}, and the job has "
            f"{quantization}: the rounded model is another one; set model.quantization to {known}",
        )


def check_labels(published: Published, labels: Sequence[str], *, multiple: bool) -> None:
    """Check that an artifact predicts ``labels``, in this order, and one or ``multiple`` for a row.

    Raises:
        StageFailure: BadConfiguration when it does not.
    """
    data = published.data
    if data.multi_label is not multiple:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{published.field}: {published.uri} was trained with task.multiLabel {str(data.multi_label).lower()}, and "
            f"the job has {str(multiple).lower()}: use the same",
        )
    if data.labels == tuple(labels):
        return
    added, removed = ([one for one in ours if one not in theirs] for ours, theirs in _both(labels, data.labels))
    if added or removed:
        found = [f"lacks {_named(added)}" if added else "", f"has also {_named(removed)}" if removed else ""]
        difference = " and ".join(part for part in found if part)
        hint = "use data with the same labels" if added else f"set task.labels to all {len(data.labels)} of them"
    else:
        difference = "has the labels in another order"
        hint = f"set task.labels to them in the order {_named(data.labels)}"
    raise StageFailure(
        Reason.BAD_CONFIGURATION,
        f"{published.field}: {published.uri} {difference}, compared with the {len(labels)} labels of the job: {hint}",
    )


def _both(first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    yield first, second
    yield second, first


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _LABELS_SHOWN} more" if len(labels) > _LABELS_SHOWN else ""
    return ", ".join(f"'{label[:40]}'" for label in labels[:_LABELS_SHOWN]) + more
