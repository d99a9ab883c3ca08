"""What the tokenisers of the tasks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example


@dataclass(frozen=True)
class Encoded:
    """A tokenised batch.

    ``columns`` and ``truncated`` (bool) have one entry for each example that is good; ``problems`` names the others by
    their index in the batch.
    """

    columns: dict[str, pa.Array]
    truncated: npt.NDArray[np.bool_]
    problems: dict[int, BadRow]


class Tokeniser(Protocol):
    """Turns examples into tokens."""

    @property
    def fields(self) -> list[pa.Field]:
        """The columns that ``encode`` makes."""

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Tokenise a batch of examples of the task."""
