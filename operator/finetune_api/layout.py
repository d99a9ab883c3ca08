"""Where the files of a revision lie in object storage, and how they are named.

::

    <output.uri>/<namespace>/<name>/r<revision>/
        revision.json           who writes here
        prepared/               data.json, train.arrow, validation.arrow, test.arrow, tokenizer/
        checkpoints/step-…/
        trained/                weights, history.json, training.json
        evaluated/              evaluation.json, predictions.jsonl, report.html
        artifact/               what was published
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DATA_REPORT = "data.json"
TOKENIZER_DIRECTORY = "tokenizer"
HISTORY = "history.json"
"""The curves of the training, by step."""
TRAINING = "training.json"
"""What the training reached, with which settings and versions."""
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.jsonl"
REPORT = "report.html"
MODEL_CARD = "README.md"
CURVES = "curves.json"
"""`HISTORY`, in the artifact."""
LABELS = "labels.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"

_CHECKPOINT = re.compile(r"step-(\d{8})")


def split_file(split: str) -> str:
    """File of the prepared examples of ``split``."""
    return f"{split}.arrow"


def checkpoint_name(step: int) -> str:
    """Directory of the checkpoint after ``step`` optimizer steps."""
    return f"step-{step:08d}"


def checkpoint_step(name: str) -> int | None:
    """The step in the name of a checkpoint's directory; None when it is another name."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class RevisionLayout:
    """Addresses of one revision of one job."""

    uri: str
    """Directory that belongs to this revision alone."""

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
