"""Addresses and file names of a revision in object storage.

::

    <output.uri>/<namespace>/<name>/r<revision>/
        revision.json           lock of the run that writes here
        prepared/               data.json, train.arrow, validation.arrow, test.arrow, tokenizer/
        checkpoints/step-…/
        trained/                weights, history.json, training.json
        evaluated/              evaluation.json, predictions.jsonl, report.html
        artifact/               the published artifact
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DATA_REPORT = "data.json"
TOKENIZER_DIRECTORY = "tokenizer"
HISTORY = "history.json"
"""Training curves: loss, learning rate and throughput by step."""
TRAINING = "training.json"
"""Result, settings and library versions of the training."""
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.jsonl"
REPORT = "report.html"
MODEL_CARD = "README.md"
CURVES = "curves.json"
"""The name of `HISTORY` in the artifact."""
LABELS = "labels.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"

_CHECKPOINT = re.compile(r"step-(\d{8})")


def split_file(split: str) -> str:
    """File name of a split in the prepared data."""
    return f"{split}.arrow"


def checkpoint_name(step: int) -> str:
    """Directory name of the checkpoint after ``step`` optimizer steps."""
    return f"step-{step:08d}"


def checkpoint_step(name: str) -> int | None:
    """The step in the directory name of a checkpoint; None for any other name."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class RevisionLayout:
    """Addresses of one revision of a job."""

    uri: str
    """Directory of the revision."""

    @classmethod
    def of(cls, output_uri: str, namespace: str, name: str, revision: int) -> RevisionLayout:
        return cls(f"{output_uri.rstrip('/')}/{namespace}/{name}/r{revision}")

    @property
    def lock(self) -> str:
        return f"{self.uri}/revision.json"

    @property
    def prepared(self) -> str:
        return f"{self.uri}/prepared"

    @property
    def checkpoints(self) -> str:
        return f"{self.uri}/checkpoints"

    @property
    def trained(self) -> str:
        return f"{self.uri}/trained"

    @property
    def evaluated(self) -> str:
        return f"{self.uri}/evaluated"

    @property
    def artifact(self) -> str:
        return f"{self.uri}/artifact"

    def checkpoint(self, step: int) -> str:
        return f"{self.checkpoints}/{checkpoint_name(step)}"
