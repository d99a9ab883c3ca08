"""PTuning: embeddings before each text, which a small network computes in training (Liu et al. 2021), with PEFT.

Only the embeddings are published. Training goes on with the network, which a checkpoint must have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_trainer.methods.prompts import PromptMethod

_STATE = "prompt_network.npz"
"""File in a checkpoint. DeepSpeed's own files have the network as well, but without ZeRO there are none."""


class PTuning(PromptMethod):
    """PTuning; implements `finetune_trainer.methods.base.Method`."""

    form = "A soft prompt"
    tags = ("p-tuning",)

    def configure(self, settings: dict[str, Any]) -> Any:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(**settings)

    def save_state(self, model: Any, checkpoint: Path) -> None:
        import numpy as np

        state = {name: tensor.float().cpu().numpy() for name, tensor in _network(model).state_dict().items()}
        np.savez(checkpoint / _STATE, allow_pickle=False, **state)

    def load_state(self, model: Any, checkpoint: Path) -> None:
        import numpy as np
        import torch

        with np.load(checkpoint / _STATE, allow_pickle=False) as stored:
            _network(model).load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})


def _network(model: Any) -> Any:
    return model.prompt_encoder[model.active_adapter]


method = PTuning()
