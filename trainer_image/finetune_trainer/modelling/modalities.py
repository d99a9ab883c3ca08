"""Which parts of a model text passes through, for models that also take images or audio."""

from __future__ import annotations

from typing import Any


def other_modalities(model: Any) -> tuple[str, ...]:
    """Names of the modules beside the text decoder, such as a vision tower; empty for a model that takes only text.

    Training on text gives them no gradient.
    """
    if model.config.get_text_config() is model.config:
        return ()
    decoder, output = model.get_decoder(), model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is decoder), "")
    if not name:
        return ()
    parent = name.rpartition(".")[0]
    siblings = model.get_submodule(parent).named_children()
    return tuple(
        f"{parent}.{sibling}".lstrip(".")
        for sibling, module in siblings
        if module is not decoder and module is not output
    )
