"""The metrics of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_api.events import StepEvent
from finetune_trainer.host.monitor import StageMonitor
from tests.unit.test_resources_job import a_stage_run

PARTS = {"cross_entropy": 1.5, "divergence": 0.25}


def after_a_step(workspace: Path, **parts: Any) -> dict[str, float | None]:
    """The loss and its parts as Prometheus reads them; None without a series."""
    monitor = StageMonitor(a_stage_run().config(workspace=str(workspace)))
    rate = {"learning_rate": 1e-3, "gradient_norm": None, "tokens": 8, "seconds": 0.1, "memory": 1}
    monitor.on_step(StepEvent(step=1, total=2, epoch=0.5, loss=2.0, **rate, **parts))
    registry = monitor.metrics.registry
    return {name: registry.get_sample_value(f"finetune_train_{name}") for name in ("loss", *PARTS)}


def test_the_parts_of_the_loss_exist_only_with_a_teacher(tmp_path: Path) -> None:
    assert after_a_step(tmp_path) == {"loss": 2.0, "cross_entropy": None, "divergence": None}
    assert after_a_step(tmp_path, **PARTS) == {"loss": 2.0, **PARTS}
