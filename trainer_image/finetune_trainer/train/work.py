"""The work of the train stage with a method that trains."""

from __future__ import annotations

from finetune_trainer.methods.base import Work
from finetune_trainer.patches.deepspeed import import_without_compiler


def load() -> Work:
    """Import the libraries of training."""
    from finetune_trainer.train.gang import train

    import_without_compiler()
    return train
