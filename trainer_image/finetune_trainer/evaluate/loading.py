"""The models to compare, in the precision and on the device that they are evaluated with."""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Precision
from finetune_api.stage import Device, StageConfig
from finetune_trainer.evaluate.batches import TokenRows
from finetune_trainer.gpus import require_gpus
from finetune_trainer.prepared import TOKENIZER_DIRECTORY

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hardware:
    """Where and in which precision the models compute."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, config: StageConfig) -> Hardware:
        """FP32 on CPU. On a GPU the precision of the training; Auto is BF16 where the GPU computes it, else FP32.

        Raises:
            StageFailure: GpuUnavailable, when a GPU is wanted and torch finds none.
        """
        if config.world.device is Device.CPU:
            return cls(torch.device("cpu"), torch.float32)
        require_gpus("evaluation", 1)
        precision = config.spec.training.precision
        if precision is Precision.FP16:
            return cls(torch.device("cuda"), torch.float16)
        half = precision is not Precision.FP32 and torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(torch.device("cuda"), torch.bfloat16 if half else torch.float32)

    def autocast(self) -> AbstractContextManager[Any]:
        """For forward passes: an adapter's own weights may be FP32 beside a half-precision model."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def set_up(seed: int) -> None:
    """Seed torch, prefer kernels that sum in a fixed order, and keep the libraries' loading reports out of the log."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    progress_bars: Any = transformers_logging
    progress_bars.disable_progress_bar()
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def load_tokenizer(prepared: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the data was prepared with."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        prepared / TOKENIZER_DIRECTORY, local_files_only=True
    )
    return tokenizer


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that rows are filled up with: the padding token, else the end of sequence, else 0."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def is_adapter(trained: Path) -> bool:
    """Whether a trained directory holds an adapter; otherwise it holds a full model.

    Raises:
        StageFailure: NotFound, when it holds neither.
    """
    if (trained / ADAPTER_CONFIG).is_file():
        return True
    if (trained / "config.json").is_file():
        return False
    raise StageFailure(
        Reason.NOT_FOUND,
        f"The trained directory has neither {ADAPTER_CONFIG} nor config.json; delete it and run the train stage again",
    )


@dataclass(frozen=True)
class LoadedModel:
    """A model and the names of its parameters that the directory did not hold, so that they are random."""

    model: PreTrainedModel
    random: frozenset[str]

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


def load_backbone(directory: Path, hardware: Hardware) -> PreTrainedModel:
    """The base model without a head. A pooler that it lacks is not read."""
    return _load(AutoModel, directory, hardware).model


def load_classifier(directory: Path, labels: int, padding: int, hardware: Hardware) -> LoadedModel:
    """A model with a classification head of ``labels`` outputs, which is random if the directory has none."""
    # Decoders read the class off the last token that is not this one.
    return _load(AutoModelForSequenceClassification, directory, hardware, num_labels=labels, pad_token_id=padding)


def load_causal(directory: Path, hardware: Hardware) -> LoadedModel:
    """A causal language model."""
    return _load(AutoModelForCausalLM, directory, hardware)


def attach_adapter(loaded: LoadedModel, trained: Path) -> Any:
    """The model with the adapter in ``trained``: a PeftModel in evaluation mode.

    Raises:
        StageFailure: InternalError, when the adapter and the model do not fit each other to the last tensor, or a
            parameter that the base model lacks is not in the adapter either.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    refused = "The trained adapter does not fit the base model"
    try:
        with safe_open(trained / ADAPTER_WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
        tuned = PeftModel.from_pretrained(loaded.model, trained, is_trainable=False)
    except (OSError, SafetensorError) as error:
        raise StageFailure(Reason.NOT_FOUND, f"The trained adapter cannot be read: {_line(error)}") from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise StageFailure(Reason.INTERNAL_ERROR, f"{refused}: {_line(error)}") from error
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


def _load(auto_class: Any, directory: Path, hardware: Hardware, **settings: Any) -> LoadedModel:
    try:
        model, notes = auto_class.from_pretrained(
            directory,
            dtype=hardware.dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **settings,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        wanted = auto_class.__name__.removeprefix("AutoModel") or "a headless model"
        raise StageFailure(
            Reason.BAD_CONFIGURATION, f"The model cannot be loaded as {wanted.removeprefix('For')}: {_line(error)}"
        ) from error
    _log.info("loaded %s in %s on %s", type(model).__name__, hardware.dtype, hardware.device)
    return LoadedModel(model.to(hardware.device).eval(), frozenset(notes["missing_keys"]))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """A JSON object beside the weights; empty when it is not there."""
    path = directory / name
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document
