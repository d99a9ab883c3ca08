"""What the tasks on decoders that predict text have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api import layout
from finetune_trainer.json_files import read_json, read_json_if_present, write_json
from finetune_trainer.prepared import IGNORED_LABEL, DataReport
from finetune_trainer.tasks.base import FormDefaults, ModelClass

if TYPE_CHECKING:
    import torch

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.train.data import Collator


class DecoderForm(FormDefaults):
    """Implements a part of `finetune_trainer.tasks.base.TaskForm`."""

    adapter_task = "CAUSAL_LM"

    def collator(self, pad_token_id: int, model: Any) -> Collator:
        from finetune_trainer.train.causal import CausalCollator

        return CausalCollator(pad_token_id)

    def model_class(self, data: DataReport) -> ModelClass:
        from transformers import AutoModelForCausalLM

        return ModelClass(AutoModelForCausalLM, {})

    def head_modules(self, model: torch.nn.Module) -> Iterable[str]:
        return ()

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        from transformers.loss.loss_utils import ForCausalLMLoss

        return ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=count)

    def decisions(self, logits: torch.Tensor, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Each label is the target of the token before it."""
        return logits[:, :-1][labels[:, 1:] != IGNORED_LABEL]

    def finish_artifact(self, directory: Path, data: DataReport, spec: FineTuneJobSpec) -> None:
        """Write the tokens that end a text and pad a batch to the configuration files of transformers.

        ``generation_config.json`` is also written for an adapter; programs that load only the base model can use it.
        """
        ends = data.end_tokens[0] if len(data.end_tokens) == 1 else list(data.end_tokens)
        tokens = {"eos_token_id": ends, "pad_token_id": data.padding}
        generation = read_json_if_present(directory / layout.GENERATION_CONFIG)
        # transformers would otherwise derive these settings from config.json again.
        generation.pop("_from_model_config", None)
        write_json(directory / layout.GENERATION_CONFIG, generation | tokens)
        config_path = directory / layout.MODEL_CONFIG
        if config_path.is_file():
            write_json(config_path, read_json(config_path) | tokens)
