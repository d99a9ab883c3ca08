"""Which parameters of a model get an adapter: those that hold a matrix for each expert.

In transformers 5 the experts of most models are no linear layers, but a parameter of shape (experts, rows, columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.methods.base import Attachment
from finetune_trainer.methods.targets import expert_counts, trained_modules

_FIELD = "method.lora.targetParameters"


def named_parameters(model: Any, attachment: Attachment, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Shapes of the matrices of the parameters that ``targets``, names or ends of names, select, by their names.

    Raises:
        StageFailure: BadConfiguration when a target selects none.
    """
    known = _experts(model, attachment)
    chosen = {target: [name for name in known if f".{name}".endswith(f".{target}")] for target in targets}
    if wrong := [target for target, names in chosen.items() if not names]:
        found = ", ".join(sorted({_end(name) for name in known}))
        advice = f"use names from {found}" if found else "it has none, so remove targetParameters"
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{_FIELD} contains {', '.join(wrong)}, which {type(model).__name__} does not have as a parameter with a "
            f"matrix for each expert: {advice}",
        )
    selected = {name for names in chosen.values() for name in names}
    return {name: shape for name, shape in known.items() if name in selected}


def _experts(model: Any, attachment: Attachment) -> dict[str, tuple[int, int]]:
    """Shapes of the matrices of the parameters with one for each expert, by their names, in order."""
    counts = expert_counts(model)
    return {
        f"{module_name}.{name}": (parameter.shape[1], parameter.shape[2])
        for module_name, module in trained_modules(model, attachment)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and (parameter.shape[0] in counts or _end(module_name).endswith("experts"))
    }


def _end(name: str) -> str:
    return ".".join([part for part in name.split(".") if not part.isdecimal()][-2:])
