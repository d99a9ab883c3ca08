"""The inputs of a job: its data, the base model, the adapter to continue from, and the teacher."""

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
from finetune_trainer.prepare.teacher import Teacher, find_teacher
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
    teacher: Teacher | None = None
    """The teacher, if it is a model and no endpoint."""

    @property
    def digest(self) -> str:
        """Digest of the content of the data files, of the versions of both models, and of the adapter."""
        files = {
            name: [[file.source.uri, file.source.size, file.source.sha256] for file in files]
            for name, files in self.data.files.items()
        }
        model = [self.identity.uri, self.identity.revision, *([self.adapter.manifest.digest] if self.adapter else [])]
        teacher = [[self.teacher.identity.uri, self.teacher.identity.revision]] if self.teacher else []
        return "sha256:" + sha256(json.dumps([files, model, *teacher], sort_keys=True).encode()).hexdigest()


def fetch_inputs(spec: FineTuneJobSpec, workspace: Path, progress: Callable[[str], None] = lambda _: None) -> Inputs:
    """Fetch and identify the data, the base model, the adapter to continue from, and the teacher.

    Raises:
        StageFailure: As `fetch_data`, `fetch_model`, `published_adapter` and `find_teacher`.
    """
    progress("fetching the data")
    data = fetch_data(spec.dataset, workspace / "data", detectable(spec.task.type.row.formats))
    progress("fetching the model")
    model = fetch_model(spec.model, workspace / "model", weights=False)
    identity = identify_model(spec.model, model)
    adapter, teacher = published_adapter(spec), find_teacher(spec, workspace / "teacher")
    return Inputs(data=data, model=model, identity=identity, adapter=adapter, teacher=teacher)
