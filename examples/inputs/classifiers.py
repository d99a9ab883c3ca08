"""Classifiers of names that are made from an encoder on this machine: a trained one, and one with fewer layers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inputs import pretraining
from inputs.names import Name
from inputs.pretraining import Log, import_torch


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained classifier, besides the encoder and the names."""

    epochs: int = 3
    batch: int = 32
    rate: float = 2e-4
    tokens: int = 32
    seed: int = 17
    version: int = 1
    """Increase it if a change of the code below changes the model."""


def trained_classifier(encoder: Path, names: Sequence[Name], recipe: Recipe, log: Log) -> Path:
    """The directory of a classifier of the languages of ``names``, trained unless an earlier run has cached it."""
    determined_by = [asdict(recipe), encoder.name, [(name.text, name.language) for name in names]]
    return pretraining.cached_model(
        "name-classifier", determined_by, lambda into: _train(encoder, names, recipe, into, log), log
    )


def first_layers(encoder: Path, layers: int, log: Log) -> Path:
    """The directory of a copy of ``encoder`` with its first ``layers`` layers only."""

    def make(into: Path) -> None:
        from transformers import AutoModel

        model: Any = AutoModel.from_pretrained(encoder)
        model.encoder.layer = model.encoder.layer[:layers]
        model.config.num_hidden_layers = layers
        model.save_pretrained(into)
        _copy_tokenizer(encoder, into)

    return pretraining.cached_model("minilm-layers", [encoder.name, layers], make, log)


def _train(encoder: Path, names: Sequence[Name], recipe: Recipe, into: Path, log: Log) -> None:
    torch = import_torch()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_cosine_schedule_with_warmup

    torch.manual_seed(recipe.seed)
    labels = sorted({name.language for name in names})
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    steps = recipe.epochs * (len(names) // recipe.batch)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    draw = torch.Generator().manual_seed(recipe.seed)
    model.train()
    log(f"Training a classifier of {len(labels)} languages on {len(names)} names")
    step = 0
    for _ in range(recipe.epochs):
        order = torch.randperm(len(names), generator=draw)[: len(names) // recipe.batch * recipe.batch]
        for chosen in order.split(recipe.batch):
            batch = [names[int(index)] for index in chosen]
            inputs = tokenizer(
                [name.text for name in batch],
                padding=True,
                truncation=True,
                max_length=recipe.tokens,
                return_tensors="pt",
            )
            loss = model(**inputs, labels=torch.tensor([labels.index(name.language) for name in batch])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if step % 50 == 0:
                log(f"step {step}/{steps}, loss {loss.item():.2f}")
    model.eval().save_pretrained(into)
    _copy_tokenizer(encoder, into)


def _copy_tokenizer(encoder: Path, into: Path) -> None:
    for file in encoder.iterdir():
        if "token" in file.name or file.name == "vocab.txt":
            shutil.copy(file, into / file.name)
