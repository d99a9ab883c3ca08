"""What a search and its evaluation ask a model, wherever the model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from finetune_trainer.search.prompt import Prompt

Inputs = Mapping[str, str]

OnExamples = Callable[[int], None]
"""Called with the number of examples that are done; with 0 as a sign of life."""


class DoesNotFit(Exception):
    """A prompt for which the model has no room, even without the text of a row."""

    def __init__(self, tokens: int, room: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens without the text of a row, and there is room for {room}")


@dataclass(frozen=True)
class Cost:
    """What a prompt costs."""

    tokens: int = 0
    """Tokens read and written."""
    shortened: int = 0
    """Rows whose text was cut, so that the prompt fits."""
    unusable: Mapping[str, int] = field(default_factory=dict)
    """Why answers could not be used, such as refusals: each reason, as a clause, with its number of answers."""


@dataclass(frozen=True)
class Spent:
    """What was spent of the budget of an endpoint."""

    requests: int = 0
    tokens: int = 0


class Asked(Protocol):
    """A model that answers prompts."""

    @property
    def stored_as(self) -> dict[str, Any]:
        """What training.json says of how the weights are stored; empty if it is as they are."""

    @property
    def spent(self) -> Spent:
        """What was spent so far; nothing for a model on this machine."""

    def most(self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str]) -> Cost:
        """The most that answers to these rows can cost; one of ``labels`` each, or texts if there are none.

        Raises:
            DoesNotFit: There is no room for the prompt.
        """

    def ranked(
        self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str], on_examples: OnExamples
    ) -> tuple[NDArray[Any], Cost]:
        """The probability of each label for each row, of shape (rows, labels).

        Raises:
            DoesNotFit: There is no room for the prompt.
        """

    def answers(self, prompt: Prompt, inputs: Sequence[Inputs], on_examples: OnExamples) -> tuple[list[str], Cost]:
        """The answer to each row.

        Raises:
            DoesNotFit: There is no room for the prompt.
        """

    def written(
        self, prompt: Prompt, inputs: Sequence[Inputs], seed: int, on_examples: OnExamples
    ) -> tuple[list[str], Cost]:
        """An answer to each row, drawn at random; empty if it cannot be used.

        Raises:
            DoesNotFit: There is no room for the prompt.
        """
