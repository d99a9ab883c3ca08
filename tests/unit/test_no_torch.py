"""The conftest of the unit tests blocks imports of torch."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("name", ["accelerate", "deepspeed", "peft", "torch", "torch.nn", "transformers"])
def test_unit_tests_cannot_import_torch(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="is not for unit tests"):
        importlib.import_module(name)
