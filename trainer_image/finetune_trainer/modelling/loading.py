"""Loads models of transformers, the same for training and evaluation."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.precision import Hardware

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model and the names of its parameters that the directory did not hold, so that they are random."""

    model: PreTrainedModel
    random: frozenset[str]

    def placed(self, hardware: Hardware) -> LoadedModel:
        """The model on its device, for evaluation."""
        model: Any = self.model
        return replace(self, model=model.to(hardware.device).eval())

    def complete(self) -> PreTrainedModel:
        """The model, when nothing of it is random.

        Raises:
            StageFailure: BadData, when something is.
        """
        if self.random:
            raise StageFailure(
                Reason.BAD_DATA,
                f"The weights of {type(self.model).__name__} lack {len(self.random)} parameters, such as "
                f"{min(self.random)}; store the whole model",
            )
        return self.model


def load(auto_class: Any, directory: Path, dtype: torch.dtype, name: str, **settings: Any) -> LoadedModel:
    """Load a model from safetensors files; nothing is fetched.

    Args:
        auto_class: The class of transformers, such as AutoModelForCausalLM.
        directory: Directory of the model.
        dtype: Type of the weights.
        name: What the model is, for the error.
        settings: Further arguments of ``from_pretrained``.

    Raises:
        StageFailure: BadConfiguration, when the directory holds no model of this class.
    """
    try:
        model, notes = auto_class.from_pretrained(
            directory, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True, **settings
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        wanted = (auto_class.__name__.removeprefix("AutoModel") or "a model without a head").removeprefix("For")
        raise StageFailure(
            Reason.BAD_CONFIGURATION, f"{name} cannot be loaded as {wanted}: {first_line(error)}"
        ) from error
    _log.info("loaded %s in %s", type(model).__name__, dtype)
    return LoadedModel(model, frozenset(notes["missing_keys"]))


def set_up(seed: int) -> None:
    """Seed torch, prefer kernels that sum in a fixed order, and keep the libraries' loading reports out of the log."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    progress_bars: Any = transformers_logging
    progress_bars.disable_progress_bar()
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def check_vocabulary(model: PreTrainedModel, rows: TokenRows) -> None:
    """Raise BadConfiguration when the data holds a token that ``model`` has no embedding of."""
    embeddings: Any = model.get_input_embeddings()
    known = int(embeddings.weight.shape[0])
    highest = int(rows.values.max(initial=0))
    if highest >= known:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The tokenizer made token {highest} but the model knows {known} tokens; use the tokenizer of this model",
        )


def check_finite(values: torch.Tensor, model: str, what: str) -> None:
    """Raise Diverged when ``values`` holds NaN or infinity. ``model`` is baseline or tuned."""
    if not bool(torch.isfinite(values).all()):
        hint = "lower training.learningRate" if model == "tuned" else "set training.precision to FP32"
        raise StageFailure(Reason.DIVERGED, f"The {model} model's {what} on the test split is not finite; {hint}")


def first_line(error: Exception) -> str:
    """The first line of an error of a library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
