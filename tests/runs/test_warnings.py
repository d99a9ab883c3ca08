"""A warning from our own packages fails the test, or the process that the test has started."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

OURS = ["finetune_api.job", "finetune_operator.cache", "finetune_cli.main", "finetune_trainer.train.model"]
OTHERS = ["finetuned", "transformers.trainer"]


def warn(module: str) -> None:
    warnings.warn_explicit("it is old", DeprecationWarning, "file.py", 1, module=module)


@pytest.mark.parametrize("module", OURS)
def test_ours_is_an_error(module: str) -> None:
    with pytest.raises(DeprecationWarning, match="it is old"):
        warn(module)


@pytest.mark.parametrize("module", OTHERS)
def test_that_of_others_is_none(module: str) -> None:
    with pytest.warns(DeprecationWarning, match="it is old"):
        warn(module)


def test_so_in_what_a_test_starts() -> None:
    code = "import sys, warnings; warnings.warn_explicit('it is old', UserWarning, 'f', 1, module=sys.argv[1])"
    failed = [
        module
        for module in OURS + OTHERS
        if subprocess.run([sys.executable, "-c", code, module], check=False, capture_output=True).returncode
    ]
    assert failed == OURS
