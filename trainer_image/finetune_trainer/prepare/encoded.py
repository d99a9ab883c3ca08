"""The interface of the tokenisers of all tasks."""

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

    ``columns`` and ``truncated`` have one entry for each valid example; ``problems`` maps the batch index of each
    invalid example to its error.
    """

    columns: dict[str, pa.Array]
    truncated: npt.NDArray[np.bool_]
    problems: dict[int, BadRow]
    tokens: tuple[str, ...] = ("input_ids",)
    """The columns with token ids, whose lengths together are that of a row."""


class Tokeniser(Protocol):
    """Tokenises examples."""

    @property
    def fields(self) -> list[pa.Field]:
        """The Arrow fields of the columns that ``encode`` returns."""

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Tokenise a batch of examples."""
