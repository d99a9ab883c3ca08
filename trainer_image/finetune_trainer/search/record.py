"""What a search has scored so far: ``search.json``, which is also its checkpoint."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

SEARCH_FILE = "search.json"


class End(StrEnum):
    """What ended a search."""

    TRIALS = "trials"
    SPACE = "space"
    BUDGET = "budget"


class Scored(BaseModel):
    """The score of a prompt on the validation examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float | None = Field(description="None if the prompt does not fit into the model.")
    tokens: int = Field(default=0, description="Tokens read and written.")
    shortened: int = Field(default=0, description="Rows whose text was cut, so that the prompt fits.")
    unusable: dict[str, int] = Field(
        default_factory=dict, description="Why answers could not be used: each reason with its number of answers."
    )


class Trial(Scored):
    """A combination and its score."""

    candidate: int
    shots: int
    chosen: int
    order: int


class Record(BaseModel):
    """``search.json``."""

    model_config = ConfigDict(extra="forbid")

    metric: str
    maximize: bool
    examples: int = Field(description="Validation examples that each prompt was scored on.")
    candidates: tuple[str, ...] = ()
    proposed: int = Field(default=0, description="Candidates, the last ones, that a model has written.")
    dropped: int = Field(default=0, description="Proposals that were none: empty, known, or with other placeholders.")
    near: int = Field(default=0, description="Rows among looked_at that are nearly rows of validation or test.")
    looked_at: int = Field(default=0, description="Training rows that were looked at to draw examples.")
    distinct: int = Field(default=0, description="Combinations that there are.")
    plain: Scored | None = Field(default=None, description="The default instruction without examples.")
    trials: tuple[Trial, ...] = ()
    alone: Scored | None = Field(default=None, description="The instruction of the best trial, without examples.")
    requests: int = Field(default=0, description="Requests to an endpoint.")
    proposing: int = Field(default=0, description="Tokens for proposals.")
    end: End | None = None

    @property
    def tokens(self) -> int:
        """Tokens read and written so far."""
        return self.proposing + sum(one.tokens for one in self._scored)

    @property
    def answers(self) -> int:
        """Answers to validation examples so far, whether asked for or known."""
        return self.examples * sum(one.value is not None for one in self._scored)

    @property
    def unusable(self) -> Counter[str]:
        """Why answers could not be used so far: each reason with its number of answers."""
        return sum((Counter(one.unusable) for one in self._scored), Counter[str]())

    @property
    def _scored(self) -> list[Scored]:
        return [one for one in (self.plain, self.alone, *self.trials) if one is not None]

    @property
    def step(self) -> int:
        """How much is done; it grows with the candidates and every score."""
        return len(self.trials) + bool(self.candidates) + (self.plain is not None) + (self.alone is not None)

    @property
    def best(self) -> Trial | None:
        """The best trial; of equal ones, that with the fewest examples, and then the first."""
        found = [trial for trial in self.trials if trial.value is not None]
        sign = -1 if self.maximize else 1
        return min(found, key=lambda trial: (sign * (trial.value or 0.0), trial.shots), default=None)

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SEARCH_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Record:
        return cls.model_validate_json((directory / SEARCH_FILE).read_bytes())
