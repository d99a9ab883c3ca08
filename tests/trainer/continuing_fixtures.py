"""Published adapters that were made without running stages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_api.spec import FineTuneJobSpec, ModelSpec, Precision
from finetune_trainer.base_content import content_of
from finetune_trainer.manifests import publish_directory
from finetune_trainer.methods import method_of
from finetune_trainer.models import fetch_model, identify_model
from finetune_trainer.prepared import DataReport, report_for_use
from finetune_trainer.row_hashes import LearnedRows, hashes_of
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.method_fixtures import attached, disturb, spec_of


def a_published_adapter(
    target: Path, base: Path, method: dict[str, Any], task: str = "InstructionTuning", texts: Sequence[str] = ()
) -> tuple[Any, str]:
    """Publish an adapter with random weights to ``target``.

    Args:
        target: Directory of the artifact.
        base: Directory of its base model.
        method: ``spec.method``.
        task: The task that it is for.
        texts: Contents of the rows that it says it was trained on.

    Returns:
        The model with the adapter, as training leaves it, and the digest of the artifact.
    """
    model, spec = attached(base, method, task), spec_of(base, method, task)
    disturb(model)
    made = target.with_name(f"{target.name}-made")
    model.save_pretrained(made)
    method_of(spec.method.type).finish(model, made, spec)
    keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    LearnedRows().with_rows(task, hashes_of(keys, range(len(keys)))).write(made)
    use = report_for_use(_report(spec))
    provenance = {"spec": spec.model_dump(mode="json", exclude_none=True), "use": use}
    return model, publish_directory(made, target.as_uri(), provenance).digest


def _report(spec: FineTuneJobSpec) -> DataReport:
    local = fetch_model(ModelSpec(uri=spec.model.uri), Path("unused"), weights=True)
    identity = identify_model(spec.model, local)
    content = content_of(spec.model, local)
    return data_report(spec).model_copy(update={"model": identity.model_copy(update={"content": content})})


def continued_from(
    adapter: Path, base: Path, method: dict[str, Any], origin: dict[str, Any], task: str = "InstructionTuning"
) -> Any:
    """The model that training continues with, as the train stage makes it.

    Args:
        adapter: Directory of the artifact.
        base: Directory of its base model.
        method: ``spec.method`` of the job.
        origin: That of the artifact.
        task: The task of both.
    """
    spec = spec_of(base, method, task)
    found = method_of(spec.method.type).continued(spec, spec_of(base, origin, task), adapter)
    spec = spec.model_copy(update={"method": found})
    report = data_report(spec)
    form = form_of(spec.task.type, report.family)
    return load_model(base, spec, report, task=form, precision=Precision.FP32, adapter=adapter).eval()
