"""``finetune_trainer predict``: applies a published artifact to rows, with the code of the evaluate stage.

Standard input is a `Request` as JSON;
standard output ``{"predictions": [{"text": …, "document": {…}}], "notes": […]}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, ModelSpec
from finetune_api.stage import Device
from finetune_api.tables.methods import Result
from finetune_trainer.context import Reporter
from finetune_trainer.importing import heavy_imports
from finetune_trainer.manifests import fetch_directory
from finetune_trainer.methods import method_of
from finetune_trainer.models import fetch_model
from finetune_trainer.prepared import DataReport
from finetune_trainer.published import description
from finetune_trainer.requests import respond
from finetune_trainer.tasks import form_for
from finetune_trainer.tasks.base import Prediction


class Request(BaseModel):
    """What to predict."""

    artifact: str
    """Address of a published artifact."""
    digest: str | None = None
    """The digest that it must have."""
    base_model: str | None = None
    """Address of the base model, if it is not that of the job."""
    rows: list[Any]
    """Texts, or objects with the columns of the task."""


@dataclass(frozen=True)
class Answer:
    """What was predicted."""

    predictions: list[Prediction]
    """In the order of the rows."""
    notes: tuple[str, ...] = ()


def main(_: list[str]) -> int:
    """Answer the request on standard input; returns the exit code."""
    return respond(lambda request, scratch: _document(predict(Request.model_validate_json(request), scratch)))


def _document(answer: Answer) -> dict[str, Any]:
    predictions = [{"text": one.text, "document": one.document} for one in answer.predictions]
    return {"predictions": predictions, "notes": answer.notes}


def predict(request: Request, scratch: Path) -> Answer:
    """The predictions for the rows of a request.

    Raises:
        StageFailure: NotFound (no artifact, or no base model), BadConfiguration (another artifact or base model than
            expected, or one that an earlier version published), BadData (an invalid row), OutOfMemory, and the failures
            of storage.
    """
    artifact = scratch / "artifact"
    manifest = fetch_directory(request.artifact, artifact)
    if request.digest and manifest.digest != request.digest:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{request.artifact} is another artifact than the job published: its digest is {manifest.digest}, not "
            f"{request.digest}; name the address to use it nevertheless",
        )
    known = description(manifest)
    if known is None:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{request.artifact} is no artifact that this version of finetune published: publish it again with "
            "finetune run --fresh",
        )
    spec, data = known
    base, notes = _base_model(request, spec, data, scratch)

    with heavy_imports():
        import torch

        from finetune_trainer.evaluate.comparison import EvaluationInputs
        from finetune_trainer.modelling.loading import set_up
        from finetune_trainer.modelling.precision import usable_hardware
        from finetune_trainer.modelling.quantizing import rounding_of

    set_up(spec.training.seed)
    form = form_for(spec, data.family)
    device = Device.GPU if torch.cuda.is_available() else Device.CPU
    hardware = usable_hardware(spec.training.precision, device)
    inputs = EvaluationInputs(
        spec=spec,
        base=base,
        trained=artifact,
        prepared=artifact,
        data=data,
        model_class=form.model_class(data),
        method=method_of(spec.method.type),
        hardware=hardware,
        reporter=Reporter(None),
        rounding=rounding_of(spec, form, hardware.device),
    )
    return Answer(form.predict(inputs, request.rows), notes)


def _base_model(
    request: Request, spec: FineTuneJobSpec, data: DataReport, scratch: Path
) -> tuple[Path, tuple[str, ...]]:
    """The directory of the base model, and notes. An artifact with all weights needs no base model."""
    if spec.exports[0].row.source is Result.MODEL:
        return scratch / "artifact", ()
    known = data.model.revision
    if request.base_model is None:
        try:
            return fetch_model(spec.model, scratch / "model", weights=True, revision=known).path, ()
        except StageFailure as failure:
            if failure.reason is not Reason.NOT_FOUND:
                raise
            raise StageFailure(
                Reason.NOT_FOUND,
                f"The base model {spec.model.uri} of the artifact was not found: name its place with --base-model",
            ) from None
    model = ModelSpec(uri=request.base_model)
    on_hub = model.uri.startswith("hf://")
    # The version of a model on the hub is a commit, and otherwise a digest of its files.
    comparable = on_hub is not known.startswith("sha256:")
    found = fetch_model(model, scratch / "model", weights=True, revision=known if on_hub and comparable else None)
    if not comparable:
        return found.path, (f"It cannot be checked that {model.uri} is {spec.model.uri} in version {known}.",)
    if found.revision != known:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{model.uri} is not the base model of the artifact, {spec.model.uri}: its version is {found.revision}, "
            f"not {known}",
        )
    return found.path, ()
