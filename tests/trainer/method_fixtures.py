"""Methods on real, tiny models, without the stages around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.methods import method_of
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.trainer.evaluation_fixtures import data_report

TOKENS = torch.tensor([[7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24, 25]])


def spec_of(base: Path, method: dict[str, Any], task: str = "InstructionTuning") -> FineTuneJobSpec:
    document = {
        "model": {"uri": base.as_uri()},
        "task": {"type": task},
        "dataset": {"train": {"uri": "file:///train.jsonl"}},
        "method": method,
        "output": {"uri": "file:///output"},
    }
    return FineTuneJobSpec.model_validate(document, strict=False)


def attached(base: Path, method: dict[str, Any], task: str = "InstructionTuning") -> Any:
    """The model with its adapter, as the train stage makes it."""
    spec = spec_of(base, method, task)
    report = data_report(spec)
    form = form_of(spec.task.type, report.family)
    return load_model(base, spec, report, task=form, precision=Precision.FP32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


def base_logits(base: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(base).eval())


def disturb(model: Any) -> None:
    """Change the adapter as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def as_published(model: Any, base: Path, directory: Path, method: dict[str, Any]) -> Any:
    """The adapter of ``model`` as published, loaded by plain PEFT on the untouched base model."""
    model.save_pretrained(directory)
    spec = spec_of(base, method)
    method_of(spec.method.type).finish(model, directory, spec)
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory).eval()
