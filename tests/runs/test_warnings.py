"""A warning from our own packages fails the test, and the processes that the test starts."""

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
def test_a_warning_from_our_packages_is_an_error(module: str) -> None:
    with pytest.raises(DeprecationWarning, match="it is old"):
        warn(module)


@pytest.mark.parametrize("module", OTHERS)
def test_a_warning_from_other_packages_is_no_error(module: str) -> None:
    with pytest.warns(DeprecationWarning, match="it is old"):
        warn(module)


def test_a_process_that_a_test_starts_has_the_same_filters() -> None:
    code = "import sys, warnings; warnings.warn_explicit('it is old', UserWarning, 'f', 1, module=sys.argv[1])"
    failed = [
        module
        for module in OURS + OTHERS
        if subprocess.run([sys.executable, "-c", code, module], check=False, capture_output=True).returncode
    ]
    assert failed == OURS
