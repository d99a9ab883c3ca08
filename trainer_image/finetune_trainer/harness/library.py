"""Finds lm-eval, which only some images contain."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from importlib.metadata import version

from finetune_api.failures import Reason, StageFailure

DIRECTORY_VARIABLE = "FINETUNE_HARNESS"
"""Environment variable: a directory with lm-eval and what only it needs. transformers, accelerate and peft would import
some of its dependencies in every process if they were installed beside them."""


def use_library() -> str:
    """Make lm-eval importable, and prepare it; returns its version.

    Raises:
        StageFailure: BadConfiguration when it is not installed.
    """
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory and directory not in sys.path:
        sys.path.append(directory)  # At the end: the packages of the trainer take precedence.
        importlib.invalidate_caches()
    if importlib.util.find_spec("lm_eval") is None:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            "evaluation.harness needs lm-eval, which is not installed here: build the trainer image with --build-arg "
            f"HARNESS=1; for finetune run, set {DIRECTORY_VARIABLE} to a directory with it, such as .venv/harness of a "
            "checkout, or install the extra harness of finetune-operator; or remove evaluation.harness",
        )
    for name in ("lm_eval", "evaluate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from finetune_trainer.patches.lm_eval import secure

    secure()
    return version("lm-eval")
