"""The jobs of the trainer tests on CPU."""

from __future__ import annotations

from tests.trainer.conftest import classification, instruction

__all__ = ["classification", "instruction"]
