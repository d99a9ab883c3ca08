"""Loads the base model for training and puts the adapter on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, LoraSpec, Precision, TaskType
from finetune_api.stage import Device
from finetune_trainer.prepared import TOKENIZER_DIRECTORY, DataReport

_PEFT_TASKS = {TaskType.TEXT_CLASSIFICATION: "SEQ_CLS", TaskType.INSTRUCTION_TUNING: "CAUSAL_LM"}
_DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP32: torch.float32}


def load_tokenizer(prepared: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the data was prepared with; one without padding token pads with its end token."""
    tokenizer = AutoTokenizer.from_pretrained(str(prepared / TOKENIZER_DIRECTORY))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    directory: Path, spec: FineTuneJobSpec, report: DataReport, tokenizer: PreTrainedTokenizerBase, precision: Precision
) -> Any:
    """The model to train, with its adapter for LoRA.

    Raises:
        StageFailure: BadConfiguration when the model does not fit the task or has no such target modules.
    """
    # Frozen weights may be rounded; trained ones only where DeepSpeed keeps a copy in full precision.
    rounded = spec.lora is not None or spec.distributed.zero.stage > 0
    dtype = _DTYPES[precision] if rounded else torch.float32
    try:
        model, loading = _load_base(directory, spec, report, dtype)
    except (ValueError, OSError) as error:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"model.uri {spec.model.uri} ({report.model.architecture}) cannot be loaded for {spec.task.type}: "
            f"{str(error).strip().splitlines()[0][:300]}",
        ) from error
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    if spec.lora is None:
        return model
    if spec.training.activation_checkpointing:
        model.enable_input_require_grads()
    return _add_adapter(model, spec.lora, spec.task.type, _head(model, spec.task.type, loading["missing_keys"]))


def _head(model: PreTrainedModel, task: TaskType, missing_keys: Iterable[str]) -> tuple[str, ...]:
    """Names of the modules that are trained whole and stored with the adapter.

    What the checkpoint does not have is random. An encoder's pooler is part of its classification head, and in models
    that embed sentences otherwise, such as by the mean, nothing has trained it for its use.
    """
    names = {key.rpartition(".")[0] for key in missing_keys}
    if task is TaskType.TEXT_CLASSIFICATION:
        names |= {name for name, _ in model.named_modules() if name.rpartition(".")[2] == "pooler"}
    return tuple(sorted(names))


def _load_base(directory: Path, spec: FineTuneJobSpec, report: DataReport, dtype: torch.dtype) -> Any:
    if spec.task.type is TaskType.TEXT_CLASSIFICATION:
        return AutoModelForSequenceClassification.from_pretrained(
            str(directory),
            dtype=dtype,
            num_labels=len(report.labels),
            id2label=dict(enumerate(report.labels)),
            label2id={label: index for index, label in enumerate(report.labels)},
            output_loading_info=True,
        )
    return AutoModelForCausalLM.from_pretrained(
        str(directory), dtype=dtype, attn_implementation=_attention(), output_loading_info=True
    )


def _attention() -> str:
    """Flash attention computes packed rows without their empty parts; PyTorch's own is there everywhere."""
    return "flash_attention_2" if torch.cuda.is_available() and importlib.util.find_spec("flash_attn") else "sdpa"


def _add_adapter(model: PreTrainedModel, lora: LoraSpec, task: TaskType, head: tuple[str, ...]) -> Any:
    targets: str | list[str] = "all-linear" if lora.target_modules == ("all-linear",) else list(lora.target_modules)
    _check_targets(model, lora.target_modules)
    config = LoraConfig(
        task_type=_PEFT_TASKS[task],
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        modules_to_save=list(head) or None,
        exclude_modules=[name for name, _ in model.named_modules() if name.startswith(head)] if head else None,
    )
    return get_peft_model(model, config)


def _check_targets(model: PreTrainedModel, wanted: tuple[str, ...]) -> None:
    if wanted == ("all-linear",):
        return
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    missing = [target for target in wanted if not any(n == target or n.endswith(f".{target}") for n in names)]
    if missing:
        known = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"method.lora.targetModules names {', '.join(missing)}, which {type(model).__name__} does not have: use "
            f"all-linear or some of {', '.join(known)}",
        )


def bf16_supported(device: Device) -> bool:
    return device is Device.CPU or torch.cuda.is_bf16_supported()
