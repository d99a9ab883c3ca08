"""The guard of this folder's conftest."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("name", ["accelerate", "deepspeed", "peft", "torch", "torch.nn", "transformers"])
def test_nothing_here_can_import_it(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="is not for unit tests"):
        importlib.import_module(name)
