"""PrefixTuning: learned keys and values before each text, in every layer (Li and Liang 2021), with PEFT."""

from __future__ import annotations

from typing import Any

from finetune_trainer.methods.trained_prompts import TrainedPrompt


class PrefixTuning(TrainedPrompt):
    """PrefixTuning; implements `finetune_trainer.methods.base.Method`."""

    form = "A prefix of keys and values"
    tags = ("prefix-tuning",)
    embeds = False

    def configure(self, settings: dict[str, Any]) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(**settings)


method = PrefixTuning()
