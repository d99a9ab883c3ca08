"""The jobs that the tests on CPU have."""

from __future__ import annotations

from tests.trainer.conftest import classification, instruction

__all__ = ["classification", "instruction"]
