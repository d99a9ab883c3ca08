"""The output of training: weights, training curves and library versions."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import MANIFEST_NAME
from finetune_trainer import storage
from finetune_trainer.train.distillation import CROSS_ENTROPY, DIVERGENCE

_LIBRARIES = ("finetune-operator", "torch", "transformers", "peft", "accelerate", "deepspeed")
_UPLOAD_POLL_SECONDS = 0.1

_PARTS = {CROSS_ENTROPY: "crossEntropy", DIVERGENCE: "divergence"}
VALIDATION_LOSS = "eval_loss"
VALIDATION_PREFIX = "eval_"
"""What precedes the name of a metric of the validation split in the log history of Trainer."""


def is_weights(name: str) -> bool:
    """Whether a file saved by Trainer is part of the model; pickle files are not."""
    return name.endswith(".safetensors") or name in (
        layout.ADAPTER_CONFIG,
        layout.MODEL_CONFIG,
        layout.GENERATION_CONFIG,
        layout.WEIGHTS_INDEX,
    )


def keep_weights(saved: Path, target: Path) -> None:
    """Move the model files from ``saved``, which Trainer wrote, to ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for path in saved.iterdir():
        if is_weights(path.name):
            shutil.move(path, target / path.name)


def fetch_weights(checkpoints_uri: str, step: int, busy: Path, target: Path) -> None:
    """Wait for running uploads, and download the model files of the checkpoint of ``step`` to ``target``.

    Raises:
        StageFailure: Unavailable when the upload of the checkpoint has failed, and the failures of storage.
    """
    while busy.exists():
        time.sleep(_UPLOAD_POLL_SECONDS)
    uri = f"{checkpoints_uri}/{layout.checkpoint_name(step)}"
    if not storage.exists(f"{uri}/{MANIFEST_NAME}"):
        raise StageFailure(
            Reason.UNAVAILABLE,
            f"the checkpoint with the best weights, of step {step}, is not at {uri}, because its upload failed: see "
            "the log",
        )
    target.mkdir(parents=True, exist_ok=True)
    for path, _ in storage.list_files(uri):
        if "/" not in path and is_weights(path):
            storage.download_file(f"{uri}/{path}", target / path)


def curves(log_history: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The content of ``history.json``: training and validation curves from the log history of Trainer."""
    train = [
        {
            "step": entry["step"],
            "epoch": entry["epoch"],
            "loss": entry["loss"],
            **{name: entry[key] for key, name in _PARTS.items() if key in entry},
            "learningRate": entry["learning_rate"],
            "gradNorm": entry.get("grad_norm"),
            "tokens": entry["tokens"],
            "tokensPerSecond": round(entry["tokens"] / entry["seconds"], 1) if entry["seconds"] else None,
        }
        for entry in log_history
        if "loss" in entry
    ]
    validation = [
        {"step": entry["step"], "epoch": entry["epoch"], "loss": entry[VALIDATION_LOSS], **_generated(entry)}
        for entry in log_history
        if VALIDATION_LOSS in entry
    ]
    return {"train": train, "validation": validation}


def validation_metrics(logged: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of generated answers in an entry of the log history of Trainer."""
    return {
        name.removeprefix(VALIDATION_PREFIX): value
        for name, value in logged.items()
        if name.startswith(VALIDATION_PREFIX) and name != VALIDATION_LOSS
    }


def _generated(entry: Mapping[str, Any]) -> dict[str, Any]:
    metrics = validation_metrics(entry)
    return {"metrics": metrics} if metrics else {}


def final_loss(train: list[dict[str, Any]]) -> float:
    """Mean loss over the last tenth of the logged steps."""
    tail = train[-max(1, len(train) // 10) :]
    return sum(float(point["loss"]) for point in tail) / len(tail)


def library_versions() -> dict[str, str]:
    """Installed versions of the training libraries."""
    return {name: version(name) for name in _LIBRARIES}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
