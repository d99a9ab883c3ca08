"""How well a base model suits a task before any training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.evaluate.comparison import SPLIT, EvaluationInputs
from finetune_trainer.modelling.loading import check_finite, set_padding
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.base import TaskForm

_ROWS_OF_A_BATCH = 4


@dataclass(frozen=True)
class BaseScore:
    """The score of a base model."""

    measure: str
    """What it is, in words."""
    value: float
    higher_is_better: bool


def zero_shot(inputs: EvaluationInputs, form: TaskForm) -> BaseScore:
    """The loss of the untrained model on what training would learn of the test split.

    It is in bits for each byte of that text, so that models with different tokenizers compare.

    Raises:
        StageFailure: BadData (the model lacks weights), Diverged (the loss is not finite), and those of `load`.
    """
    # Not packed, because the parts of a row are measured in any case.
    data = inputs.data.model_copy(update={"handling": inputs.data.handling.model_copy(update={"packing": False})})
    rows = form.dataset(open_split(inputs.prepared, SPLIT), inputs.spec, data)
    model = inputs.load(inputs.base).complete()
    set_padding(model, data.padding)
    collate = form.collator(data.padding, model)
    tokenizer = load_prepared_tokenizer(inputs.prepared)
    order = np.argsort(-rows.lengths, kind="stable").tolist()
    size = _ROWS_OF_A_BATCH if data.handling.batching else 1
    nats, length = 0.0, 0
    for start in range(0, len(order), size):
        batch = collate([rows[row] for row in order[start : start + size]])
        moved = {name: tensor.to(inputs.hardware.device) for name, tensor in batch.items()}
        labels = moved.pop("labels")
        with torch.inference_mode(), inputs.hardware.autocast():
            loss = form.loss(logits_of(model(**moved)), labels, torch.tensor(1))
        check_finite(loss, "baseline", "loss")
        nats += float(loss)
        length += sum(bytes_of(tokenizer, ids[ids != IGNORED_LABEL]) for ids in batch["labels"])
    return of_text(nats, length)


def of_text(nats: float, length: int) -> BaseScore:
    """The score for the negative log-likelihood of a text of ``length`` bytes."""
    return BaseScore("bits per byte, zero-shot", nats / max(length, 1) / math.log(2), higher_is_better=False)


def bytes_of(tokenizer: Any, ids: torch.Tensor) -> int:
    """Bytes in UTF-8 of the text of token ids, of shape (tokens,), without special tokens."""
    text: str = tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    return len(text.encode())
