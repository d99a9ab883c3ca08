"""The inputs of a decoder: the labels, moved by one behind the start token, as each model class does it itself."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from finetune_api.failures import Reason, StageFailure

Shift = Callable[[torch.Tensor], torch.Tensor]
"""Labels to decoder inputs, both of shape (batch, tokens)."""


def shift_of(model: Any) -> Shift:
    """The function of ``model`` that makes the inputs of its decoder from labels.

    Raises:
        StageFailure: BadConfiguration when the class of the model has none.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(base, "prepare_decoder_input_ids_from_labels"):
        return lambda labels: base.prepare_decoder_input_ids_from_labels(labels=labels)
    function = getattr(sys.modules[type(base).__module__], "shift_tokens_right", None)
    if function is None:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{type(base).__name__} has no function that makes the inputs of its decoder: choose another model",
        )
    known = {
        "pad_token_id": base.config.pad_token_id,
        "decoder_start_token_id": base.config.decoder_start_token_id,
    }
    return partial(function, **{name: known[name] for name in inspect.signature(function).parameters if name in known})
