"""Compare a published artifact with the status of its job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer import storage
from finetune_trainer.manifests import fetch_directory
from tests.cluster.services import CREDENTIALS


def assert_digests_match(status: dict[str, Any], to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch the artifact into ``to``, and compare all its digests and metrics with the status."""
    artifact = status["artifact"]
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    fetch_directory(artifact["uri"], to)  # Verifies every digest.
    manifest = storage.read_bytes(f"{artifact['uri']}/manifest.json")
    assert artifact["digest"] == "sha256:" + hashlib.sha256(manifest).hexdigest()
    evaluation = json.loads((to / "evaluation.json").read_text())
    for measured, reported in zip(evaluation["metrics"], status["evaluation"]["metrics"], strict=True):
        assert reported["name"] == measured["name"]
        assert (reported["tuned"], reported["baseline"]) == pytest.approx(
            (measured["tuned"], measured["baseline"]), rel=1e-5
        )
