"""The inputs of a job: its data, the base model, and the adapter to continue from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.models import LocalModel, fetch_model, identify_model
from finetune_trainer.prepare.continuing import published_adapter
from finetune_trainer.prepare.fetch import FetchedData, detectable, fetch_data
from finetune_trainer.prepared import ModelIdentity
from finetune_trainer.published import Published


@dataclass(frozen=True)
class Inputs:
    """The inputs of the job on local disk."""

    data: FetchedData
    model: LocalModel
    identity: ModelIdentity
    adapter: Published | None = None
    """The adapter that training continues from."""

    @property
    def digest(self) -> str:
        """Digest of the content of the data files, of the version of the base model, and of the adapter."""
        files = {
            name: [[file.source.uri, file.source.size, file.source.sha256] for file in files]
            for name, files in self.data.files.items()
        }
        model = [self.identity.uri, self.identity.revision, *([self.adapter.manifest.digest] if self.adapter else [])]
        return "sha256:" + sha256(json.dumps([files, model], sort_keys=True).encode()).hexdigest()


def fetch_inputs(spec: FineTuneJobSpec, workspace: Path, progress: Callable[[str], None] = lambda _: None) -> Inputs:
    """Fetch and identify the data, the base model, and the adapter to continue from.

    Raises:
        StageFailure: As `fetch_data`, `fetch_model` and `published_adapter`.
    """
    progress("fetching the data")
    data = fetch_data(spec.dataset, workspace / "data", detectable(spec.task.type.row.formats))
    progress("fetching the model")
    model = fetch_model(spec.model, workspace / "model", weights=False)
    identity = identify_model(spec.model, model)
    return Inputs(data=data, model=model, identity=identity, adapter=published_adapter(spec))
