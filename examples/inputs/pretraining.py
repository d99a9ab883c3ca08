"""What the small models have in common: a cache, a byte-level BPE tokenizer, and a short training on a CPU."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Log = Callable[[str], None]


def cached_model(name: str, determined_by: Any, make: Callable[[Path], None], log: Log) -> Path:
    """The directory of a model, which is made unless an earlier run has cached it.

    Args:
        name: The beginning of the directory's name.
        determined_by: Everything that determines the model, as values that JSON has.
        make: Writes the model into a directory.
        log: Prints a line of progress.
    """
    digest = hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "models"
    final = cache / f"{name}-{digest}"
    if (final / "model.safetensors").exists():
        log(f"Found the small model in {final}")
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        made = Path(scratch) / "model"
        make(made)
        shutil.rmtree(final, ignore_errors=True)
        made.rename(final)
    return final


def import_torch() -> Any:
    """torch, whose threads sleep while they wait: spinning makes training four times slower on a busy machine."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    import torch

    return torch


def bpe(texts: Iterable[str], vocabulary: int, special_tokens: list[str]) -> Any:
    """A byte-level BPE tokenizer of the library `tokenizers`, which splits numbers into digits."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class Pace:
    """How long a model is trained, and the peak learning rates of both optimizers."""

    steps: int
    muon_rate: float
    adam_rate: float

    def factor(self, step: int) -> float:
        """The share of the peak learning rates at ``step``."""
        return min((step + 1) / 20, 1.0, 1.5 * (1 - step / self.steps) + 0.02)


def pretrain(model: Any, batches: Iterable[Mapping[str, Any]], pace: Pace, log: Log) -> None:
    """Train for as many batches as ``pace`` says, with Muon for the hidden matrices and AdamW for the rest.

    Batches are small: early in training, more steps help more than less noisy gradients.
    """
    torch = import_torch()
    from inputs.muon import Muon

    parameters = sum(parameter.numel() for parameter in model.parameters())
    log(f"Training a model of {parameters / 1e6:.1f} million parameters")
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and not _is_embedding(name)]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or _is_embedding(name)]
    optimizers = [
        Muon(inside, pace.muon_rate),
        torch.optim.AdamW(rest, pace.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, pace.factor) for optimizer in optimizers]
    began = time.monotonic()
    for step, batch in zip(range(pace.steps), batches, strict=False):
        loss = model(**batch).loss
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step % 50 == 49 or step == 0:
            log(f"step {step + 1}/{pace.steps}, loss {loss.item():.2f}, {time.monotonic() - began:.0f} s")


def _is_embedding(name: str) -> bool:
    return "embed" in name or name.startswith("lm_head")
