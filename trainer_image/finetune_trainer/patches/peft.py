"""What PEFT is used differently for than its documentation says."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

_QUANTISATION = "bitsandbytes"

_ANSWERS = {
    "peft.import_utils": ("is_bnb_available", "is_bnb_4bit_available"),
    "transformers.utils.import_utils": ("is_bitsandbytes_available",),
}
"""Functions that remember whether bitsandbytes is installed."""

VERSION = "0.21.2"
"""The version that this was checked with."""


def task_type_of(adapter_task: str) -> str | None:
    """The ``task_type`` of the configuration of an adapter; None for the class `peft.PeftModel`.

    Its class for QUESTION_ANS drops the ``token_type_ids``, without which an encoder cannot tell the question from the
    context; the general class passes all inputs on. Source: PeftModelForQuestionAnswering.forward in
    peft/peft_model.py.

    Args:
        adapter_task: PEFT task type, such as CAUSAL_LM.
    """
    return None if adapter_task == "QUESTION_ANS" else adapter_task


def without_bitsandbytes() -> None:
    """Make PEFT and accelerate ignore bitsandbytes in this process until `bitsandbytes` is called.

    They import it where it is installed, and it imports the compiler of torch: three seconds in each process. Source:
    peft/import_utils.py, and bitsandbytes/backends/default/ops.py.
    """
    # importlib finds no module for a name with this entry.
    sys.modules.setdefault(_QUANTISATION, None)  # type: ignore[arg-type]


def bitsandbytes() -> Any:
    """The package bitsandbytes, in a process that has imported PEFT without it; PEFT and transformers find it, too."""
    if sys.modules.get(_QUANTISATION, _QUANTISATION) is None:
        del sys.modules[_QUANTISATION]
        for module, names in _ANSWERS.items():
            for name in names:
                getattr(importlib.import_module(module), name).cache_clear()
    # It says in every step that LLM.int8 computes in FP16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # It misses a kernel of the hub for a layout of weights that is not used.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    library = importlib.import_module(_QUANTISATION)
    from finetune_trainer.patches.bitsandbytes import same_weights_on_every_cpu  # It imports torch.

    same_weights_on_every_cpu(library)
    return library
