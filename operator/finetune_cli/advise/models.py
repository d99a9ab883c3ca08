"""Which base models suit the task: each is measured on the same few validation rows."""

from __future__ import annotations

import json
import os.path
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.spec import FineTuneJobSpec
from finetune_cli.advise.candidates import awaits_answers
from finetune_cli.local import LocalError
from finetune_cli.local.trainer import ask
from finetune_cli.scratch import stage_run
from finetune_cli.sentences import causes, sentence
from finetune_core.policies.revision import current_revision
from finetune_core.runs import Observed

ROWS = 200
"""Largest number of validation rows."""


@dataclass(frozen=True)
class ModelScore:
    """A base model, and how well it suits the task."""

    uri: str
    measure: str = ""
    value: float | None = None
    """None if it cannot be measured."""
    higher_is_better: bool = True
    rows: int = 0
    parameters: int = 0
    seconds: float = 0.0
    """Of the measurement, with the time to load the model."""
    problem: str = ""
    """Why it cannot be measured."""


def addresses(given: Sequence[str]) -> list[str]:
    """The addresses of models, each once; paths become ``file://``."""
    names = [name.strip() for text in given for name in text.split(",")]
    return list(
        dict.fromkeys(name if "://" in name else Path(os.path.abspath(name)).as_uri() for name in names if name)
    )


def measured(job: FineTuneJob, uri: str, scratch: Path) -> ModelScore:
    """The score of a model in the place of that of the job.

    Args:
        job: The job of the manifest.
        uri: Address of the model.
        scratch: Directory for the prepared data and the files of the trainer, which is emptied.
    """
    data = job.spec.model_dump(mode="json", exclude_unset=True)
    same = uri == job.spec.model.uri
    data["model"] = {**data["model"], "uri": uri} if same else {"uri": uri}
    # The method matters to none of the measures, and not every method is for every model.
    data["method"] = {name: value for name, value in data.get("method", {}).items() if name == "preference"}
    if awaits_answers(job.spec):
        data.pop("distillation")  # A teacher of logits stays: the model must have its tokens or labels.
    data["output"] = {"uri": (scratch / "output").as_uri()}
    try:
        spec = FineTuneJobSpec.model_validate_json(json.dumps(data))
    except ValidationError as error:
        return ModelScore(uri, problem="; ".join(sentence(one)[1] for one in causes(error.errors(include_url=False))))
    scratch.mkdir()
    wanted = job.model_copy(update={"spec": spec})
    status = current_revision(spec, FineTuneJobStatus(), Observed(), datetime.now(UTC))
    run = stage_run(wanted, status, spec.output.uri)
    request = {"config": run.config(workspace=str(scratch)).model_dump(mode="json", exclude_unset=True), "rows": ROWS}
    try:
        found = ask("advise", request, question="suitability", scratch=scratch)
    except LocalError as error:
        return ModelScore(uri, problem=error.message)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ModelScore(
        uri,
        found["measure"],
        found["value"],
        found["higherIsBetter"],
        found["rows"],
        found["parameters"],
        found["seconds"],
    )


def best_first(scores: Sequence[ModelScore]) -> list[ModelScore]:
    """The models by their score, those of the most frequent measure first; then those that cannot be measured."""
    measures = [one.measure for one in scores if one.value is not None]

    def key(one: ModelScore) -> tuple[bool, int, str, float]:
        value = one.value if one.value is not None else 0.0
        return (one.value is None, -measures.count(one.measure), one.measure, -value if one.higher_is_better else value)

    return sorted(scores, key=key)
