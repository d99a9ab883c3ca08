"""A small causal language model without a chat template, trained in a minute or two on a CPU.

It has read names with their language, in quizzes of one to six questions. Most quizzes are worded in one way, few in
two others, so that the model answers some wordings better than others. It has read none of the example's names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from inputs import pretraining
from inputs.names import Name
from inputs.pretraining import Log
from inputs.small_llama import Recipe, make, tokenizer_for

WORDINGS = {"{name}: which language?": 8, "The language of {name} is": 1, "Name: {name}": 1}
"""How questions are worded, and how often. The answer follows after an empty line."""
_LONGEST_QUIZ = 6


RECIPE = Recipe(
    vocabulary=1024,
    width=128,
    layers=4,
    heads=4,
    feed_forward=384,
    context=512,
    sequence=160,
    batch=12,
    steps=300,
)


def cached_model(names: Sequence[Name], recipe: Recipe, log: Log) -> Path:
    """The directory of the model, which is trained unless an earlier run has cached it."""
    texts = list(quizzes(names, 24 * len(names), recipe.seed))

    def train(into: Path) -> None:
        make(into, texts, tokenizer_for(texts, recipe, []), recipe, log)

    return pretraining.cached_model("small-quiz", [asdict(recipe), texts], train, log)


def quizzes(names: Sequence[Name], questions: int, seed: int) -> Iterator[str]:
    """Quizzes with about ``questions`` questions in all, each quiz in one wording."""
    draw = random.Random(seed)
    while questions > 0:
        wording = draw.choices(list(WORDINGS), list(WORDINGS.values()))[0]
        asked = draw.sample(list(names), draw.randint(1, _LONGEST_QUIZ))
        questions -= len(asked)
        yield "\n\n".join(f"{wording.format(name=one.text)}\n\n{one.language}" for one in asked)
