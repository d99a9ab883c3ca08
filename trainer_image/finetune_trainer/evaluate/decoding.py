"""Sets how a model decodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig


@contextmanager
def decoding(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Replace the generation config of ``model``, so that nothing else that it was saved with has an effect.

    ``generate`` fills settings that its argument lacks from the config of the model.
    """
    # PEFT copies the config from its own model to that of transformers for some types of models only.
    owner = model.get_base_model() if isinstance(model, PeftModel) else model
    own = owner.generation_config
    changed = [owner] if owner is model else [owner, model]
    for part in changed:
        part.generation_config = config
    try:
        yield
    finally:
        for part in changed:
            part.generation_config = own
