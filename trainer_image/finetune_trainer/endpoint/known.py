"""Which prompts of a call have an answer in the store already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune_trainer.endpoint.messages import NOT_ASKED, Outcome
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usage import Usage

Prompt = TypeVar("Prompt")

Enough = Callable[[Outcome, int], bool]
"""Called with each outcome as it arrives, and the number of prompts that have it; once it returns True, nothing more is
asked."""


@dataclass
class Known(Generic[Prompt]):
    """The outcomes of one call."""

    keys: Sequence[str]
    """Of each prompt; equal prompts have the same."""
    outcomes: dict[str, Outcome]
    """By key."""
    pending: dict[str, Prompt]
    """The prompts without an outcome, by key."""
    ended: bool
    """Whether there are enough outcomes."""
    enough: Callable[[str], bool]
    """Whether there are enough with the outcome of a key."""

    def listed(self) -> list[Outcome]:
        """The outcome of each prompt; `NOT_ASKED` if it has none."""
        return [self.outcomes.get(key, NOT_ASKED) for key in self.keys]


def look_up(
    store: AnswerStore, usage: Usage, keys: Sequence[str], prompts: Sequence[Prompt], enough: Enough
) -> Known[Prompt]:
    """Take the answers that ``store`` has, and count them in ``usage``."""
    times, outcomes, pending, ended = Counter(keys), dict[str, Outcome](), dict[str, Prompt](), False
    for key, prompt in zip(keys, prompts, strict=True):
        if key in outcomes or key in pending:
            continue
        if answer := store.get(key):
            outcomes[key] = answer
            usage.add(answer, kept=True)
            ended |= enough(answer, times[key])
        else:
            pending[key] = prompt
    return Known(keys, outcomes, pending, ended, lambda key: enough(outcomes[key], times[key]))
