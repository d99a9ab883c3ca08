"""``finetune_trainer compare``: two evaluations, with paired intervals if their predictions are stored.

Standard input is a `Request` as JSON. Standard output has ``evaluations``, ``testDigests`` (null if unknown),
``paired`` (the metrics with the interval of the change), ``decodings`` (how answers were generated, or null), and
``incomparable`` (why metrics that both have do not compare, by their name).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from finetune_api import layout
from finetune_api.evaluation import Evaluation, EvaluationFile
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Metric
from finetune_trainer import storage
from finetune_trainer.evaluate.pairing import digest_of, paired_results
from finetune_trainer.requests import respond
from finetune_trainer.stages.evaluate import read_evaluation

_ARTIFACT, _EVALUATED = "/artifact", "/evaluated"


class Side(BaseModel):
    """One of the two."""

    address: str | None = None
    """Directory of evaluation.json, or of the artifact."""
    evaluation: Evaluation | None = None
    """The evaluation, if it is known already."""


class Request(BaseModel):
    """What to compare."""

    first: Side
    second: Side


def main(_: list[str]) -> int:
    """Answer the request on standard input; returns the exit code."""
    return respond(lambda request, scratch: compare(Request.model_validate_json(request), scratch))


def compare(request: Request, _: Path) -> dict[str, Any]:
    """The evaluations, and what can be said about their difference.

    Raises:
        StageFailure: NotFound when there is no evaluation, BadData when it is not valid, and the failures of storage.
    """
    sides = (request.first, request.second)
    evaluations = [side.evaluation or read_evaluation(_found(side)) for side in sides]
    rows = [_predictions(side) for side in sides]
    digests = [
        digest_of(read) if read else evaluation.test_digest for read, evaluation in zip(rows, evaluations, strict=True)
    ]
    first, second = rows
    paired = []
    if first and second and digests[0] == digests[1]:
        paired = paired_results(first, second, *evaluations)
    details = [_details(side) for side in sides]
    incomparable = _incomparable(*(found.get("beta") for found in details))
    decodings = [found.get("decoding") for found in details]
    return {
        "evaluations": [one.model_dump(mode="json", exclude_none=True) for one in evaluations],
        "testDigests": digests,
        "decodings": [found if isinstance(found, str) else None for found in decodings],
        "paired": [one.model_dump(mode="json") for one in paired if one.name not in incomparable],
        "incomparable": incomparable,
    }


def _details(side: Side) -> dict[str, Any]:
    """The details of evaluation.json; empty if they are not reachable."""
    try:
        content = storage.read_bytes(storage.join(_found(side), layout.EVALUATION))
        return EvaluationFile.model_validate_json(content).details
    except (StageFailure, ValueError):
        return {}


def _incomparable(first: float | None, second: float | None) -> dict[str, str]:
    """Metrics of preferences whose unit differs: a reward is beta times a log-probability."""
    if first is None or second is None or first == second:
        return {}
    return {str(Metric.MARGIN): f"beta, the unit of rewards, is {first:g} for A and {second:g} for B"}


def _found(side: Side) -> str:
    """The directory of evaluation.json."""
    if side.address and storage.exists(storage.join(side.address, layout.EVALUATION)):
        return side.address
    raise StageFailure(Reason.NOT_FOUND, f"There is no {layout.EVALUATION} at {side.address}")


def _predictions(side: Side) -> list[dict[str, Any]] | None:
    """The predictions, which are beside an artifact, not in it; None if they are not stored, or not reachable."""
    if side.address is None:
        return None
    address = side.address.removesuffix(_ARTIFACT) + _EVALUATED if side.address.endswith(_ARTIFACT) else side.address
    try:
        content = storage.read_bytes(storage.join(address, layout.PREDICTIONS))
        return [json.loads(line) for line in content.decode().splitlines()]
    except (StageFailure, ValueError):
        return None
