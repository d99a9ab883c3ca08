"""What the methods of PEFT have in common: the base model stays as it is, and an adapter is stored beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_trainer.methods.base import Loader

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel


class AdapterMethod:
    """A method whose result is an adapter of PEFT."""

    trains_base = False

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        require(trained, ADAPTER_CONFIG)
        return restore(load(base), trained)

    def baseline_and_tuned(self, load: Loader, base: Path, trained: Path) -> Iterator[tuple[str, Any]]:
        """The base model is loaded once and serves as both."""
        model = self.tuned(load, base, trained)
        with model.disable_adapter():
            yield "baseline", model
        yield "tuned", model


def require(trained: Path, name: str) -> None:
    """Raise NotFound when the trained directory lacks the file ``name``."""
    if not (trained / name).is_file():
        raise StageFailure(
            Reason.NOT_FOUND, f"The trained directory has no {name}; delete it and run the train stage again"
        )


def restore(loaded: LoadedModel, trained: Path) -> Any:
    """The model with the adapter in ``trained``: a PeftModel in evaluation mode.

    Raises:
        StageFailure: InternalError, when the adapter and the model do not fit each other to the last tensor, or a
            parameter that the base model lacks is not in the adapter either.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    from finetune_trainer.modelling.loading import first_line

    refused = "The trained adapter does not fit the base model"
    try:
        with safe_open(trained / ADAPTER_WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
        tuned = PeftModel.from_pretrained(loaded.model, trained, is_trainable=False)
    except (OSError, SafetensorError) as error:
        raise StageFailure(Reason.NOT_FOUND, f"The trained adapter cannot be read: {first_line(error)}") from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise StageFailure(Reason.INTERNAL_ERROR, f"{refused}: {first_line(error)}") from error
    # PEFT passes over missing and unknown tensors with a warning, and would evaluate an untrained adapter.
    if different := sorted(stored ^ set(get_peft_model_state_dict(tuned))):
        raise StageFailure(
            Reason.INTERNAL_ERROR, f"{refused}: {len(different)} tensors are on one side only, such as {different[0]}"
        )
    # Such a layer was random in training and is random in another way now: the adapter means nothing without it.
    if absent := sorted(name for name in loaded.random if f"base_model.model.{name}" not in stored):
        raise StageFailure(
            Reason.INTERNAL_ERROR,
            f"The adapter was trained beside {absent[0]}, which neither it nor the base model holds; train it again "
            "with that layer stored in the adapter",
        )
    return tuned.eval()
