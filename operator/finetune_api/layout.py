"""Addresses and file names of a revision in object storage.

::

    <output.uri>/<namespace>/<name>/answers/
        …                       answers of a teacher or another model, which all revisions use
    <output.uri>/<namespace>/<name>/r<revision>/
        revision.json           lock of the run that writes here, and what the directory belongs to
        unanswered/             data.json of prepare, if respond lets a teacher answer
        prepared/               data.json, train.arrow, validation.arrow, test.arrow, tokenizer/, adapter/,
                                learned-rows.npz, test-rows.npy, teacher.jsonl
        checkpoints/step-…/
        trained/                weights or prompt.json and search.json, history.json, training.json
        evaluated/              evaluation.json, predictions.jsonl, harness.jsonl, report.html
        artifact/               the published artifact

A revision that differs from an earlier one only in its evaluation uses the prepared data, the checkpoints and the
weights in the directory of the earlier one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DATA_REPORT = "data.json"
TOKENIZER_DIRECTORY = "tokenizer"
ADAPTER_DIRECTORY = "adapter"
"""In the prepared data: the adapter that training continues from."""
LEARNED_ROWS = "learned-rows.npz"
"""Hashes of the rows that the weights were trained on; also in the artifact."""
TEST_ROWS = "test-rows.npy"
"""Hashes of the rows of the test split."""
TEACHER_ANSWERS = "teacher.jsonl"
"""In the prepared data: the answers of the teacher to the prompts of the test split, with which it is measured."""
HISTORY = "history.json"
"""Training curves: loss, learning rate and throughput by step."""
TRAINING = "training.json"
"""Result, settings and library versions of the training."""
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.jsonl"
HARNESS = "harness.jsonl"
"""The values of each example of the tasks of evaluation.harness."""
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

_REVISION = re.compile(r"r([1-9]\d{0,8})/")
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
class JobLayout:
    """Addresses of a job."""

    uri: str
    """Directory of the job."""

    @classmethod
    def of(cls, output_uri: str, namespace: str, name: str) -> JobLayout:
        return cls(f"{output_uri.rstrip('/')}/{namespace}/{name}")

    def revision(self, number: int, training: int | None = None) -> RevisionLayout:
        """The addresses of a revision that uses the training of the revision ``training``; default: its own."""
        return RevisionLayout(f"{self.uri}/r{number}", f"{self.uri}/r{number if training is None else training}")

    @property
    def answers(self) -> str:
        """Directory of the answers of a teacher or another model that was asked, which all revisions use."""
        return f"{self.uri}/answers"

    @staticmethod
    def revision_of(path: str) -> int | None:
        """The revision that a path relative to the directory of the job belongs to; None if to none."""
        found = _REVISION.match(path)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class RevisionLayout:
    """Addresses of one revision of a job."""

    uri: str
    """Directory of the revision."""
    training_uri: str
    """Directory of the revision whose training it uses."""

    @property
    def lock(self) -> str:
        return f"{self.uri}/revision.json"

    @property
    def training_lock(self) -> str:
        return f"{self.training_uri}/revision.json"

    @property
    def prepared(self) -> str:
        return f"{self.training_uri}/prepared"

    @property
    def unanswered(self) -> str:
        return f"{self.training_uri}/unanswered"

    @property
    def checkpoints(self) -> str:
        return f"{self.training_uri}/checkpoints"

    @property
    def trained(self) -> str:
        return f"{self.training_uri}/trained"

    @property
    def evaluated(self) -> str:
        return f"{self.uri}/evaluated"

    @property
    def artifact(self) -> str:
        return f"{self.uri}/artifact"

    def checkpoint(self, step: int) -> str:
        return f"{self.checkpoints}/{checkpoint_name(step)}"
