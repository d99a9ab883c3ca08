"""Teacher and student of the example distillation-responses, and questions with one answer each.

The teacher is the small language model after a training on many questions of the chat example and their answers. The
student is the first layers of the small language model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inputs import chat, pretraining
from inputs.pretraining import Log, Pace, import_torch, pretrain

_IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the teacher, besides the model that it starts from."""

    questions: int = 12_000
    batch: int = 32
    steps: int = 375
    muon_rate: float = 0.01
    adam_rate: float = 1.5e-3
    seed: int = 29
    student_layers: int = 2
    """The teacher has 4."""


def questions(count: int, *, for_test: bool, seed: int = 17) -> list[dict[str, str]]:
    """``count`` different questions with their answers, as rows with a prompt and a completion.

    A smaller ``count`` gives the first of them. Questions for the test have other subjects.
    """
    draw = random.Random(f"{seed}-{for_test}")
    asking = chat.Questions(draw, for_test)
    found: dict[str, str] = {}
    while len(found) < count:
        language = draw.choice(list(chat.LANGUAGES))
        question, answer = asking.ask(language)
        found.setdefault(f"{question[:-1]} in {chat.LANGUAGES[language]}.", answer)
    return [{"prompt": prompt, "completion": completion} for prompt, completion in found.items()]


def cached_student(whole: Path, recipe: Recipe, log: Log) -> Path:
    """The directory of the student: the first layers of the model in ``whole``."""

    def make(into: Path) -> None:
        import_torch()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(whole)
        model.model.layers = model.model.layers[: recipe.student_layers]
        model.config.num_hidden_layers = recipe.student_layers
        model.save_pretrained(into)
        AutoTokenizer.from_pretrained(whole).save_pretrained(into)

    return pretraining.cached_model("student", [whole.name, recipe.student_layers], make, log)


def cached_teacher(student: Path, rows: list[dict[str, str]], recipe: Recipe, log: Log) -> Path:
    """The directory of the teacher, which starts from the model in ``student`` unless an earlier run has cached it."""
    determined_by = [student.name, asdict(recipe), rows]
    return pretraining.cached_model("teacher", determined_by, lambda into: _make(into, student, rows, recipe, log), log)


def _make(into: Path, student: Path, rows: list[dict[str, str]], recipe: Recipe, log: Log) -> None:
    torch = import_torch()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(student)
    model = AutoModelForCausalLM.from_pretrained(student)
    encoded = [_encoded(tokenizer, row) for row in rows]
    pretrain(model, _batches(encoded, tokenizer, recipe), Pace(recipe.steps, recipe.muon_rate, recipe.adam_rate), log)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _encoded(tokenizer: Any, row: dict[str, str]) -> tuple[list[int], int]:
    """The tokens of a conversation, and how many of them are before the answer."""
    messages = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    return [*prompt, *answer, tokenizer.eos_token_id], len(prompt)


def _batches(encoded: list[tuple[list[int], int]], tokenizer: Any, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Infinite batches of padded conversations, in which only the answers have labels."""
    import torch

    draw = random.Random(recipe.seed)
    while True:
        draw.shuffle(encoded)
        for start in range(0, len(encoded) - recipe.batch + 1, recipe.batch):
            part = encoded[start : start + recipe.batch]
            longest = max(len(tokens) for tokens, _ in part)
            ids, labels = [], []
            for tokens, before in part:
                padding = longest - len(tokens)
                ids.append(tokens + [tokenizer.pad_token_id] * padding)
                labels.append([_IGNORED] * before + tokens[before:] + [_IGNORED] * padding)
            tensor = torch.tensor(ids)
            yield {
                "input_ids": tensor,
                "labels": torch.tensor(labels),
                "attention_mask": (tensor != tokenizer.pad_token_id).long(),
            }
