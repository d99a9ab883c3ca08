"""The combinations that a search can choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune_trainer.search.prompt import Prompt, Rows
from finetune_trainer.search.shots import Pool, draw_orders, draw_sets


class Combination(NamedTuple):
    """A candidate with a set of examples in an order, by their numbers in a `Space`."""

    candidate: int
    shots: int
    chosen: int
    """Number of the set among those of its size."""
    order: int


@dataclass(frozen=True)
class Space:
    """Candidate instructions, and sets of examples in their orders."""

    candidates: tuple[str, ...]
    sets: dict[int, list[list[tuple[int, ...]]]]
    """By size: of each set its orders, as indices of training rows."""
    rows: Rows
    """The training rows."""

    @classmethod
    def of(cls, candidates: Sequence[str], sizes: Sequence[int], pool: Pool, seed: int) -> Space:
        """The space of these candidates and sizes.

        Raises:
            StageFailure: BadConfiguration when a size exceeds the pool.
        """
        sets = {size: [draw_orders(one, seed) for one in draw_sets(pool, size, seed)] for size in sorted(set(sizes))}
        return cls(tuple(candidates), sets, pool.rows)

    def __iter__(self) -> Iterator[Combination]:
        """All combinations, those with few examples first."""
        for size, sets in self.sets.items():
            for candidate in range(len(self.candidates)):
                for chosen, orders in enumerate(sets):
                    yield from (Combination(candidate, size, chosen, order) for order in range(len(orders)))

    def prompt(self, combination: Combination) -> Prompt:
        """The prompt of a combination."""
        indices = self.sets[combination.shots][combination.chosen][combination.order]
        return Prompt(self.candidates[combination.candidate], tuple(map(self.rows.example, indices)))

    def suggested(self, trial: Any) -> Combination:
        """The combination that ``trial``, a trial of Optuna, suggests.

        Its parameters are conditional: that of a set exists for each size, and that of an order for each set.
        """
        candidate = trial.suggest_categorical("candidate", list(range(len(self.candidates))))
        shots = trial.suggest_categorical("shots", list(self.sets))
        sets = self.sets[shots]
        chosen = trial.suggest_categorical(f"set of {shots}", list(range(len(sets)))) if len(sets) > 1 else 0
        orders = len(sets[chosen])
        name = f"order of set {chosen} of {shots}"
        order = trial.suggest_categorical(name, list(range(orders))) if orders > 1 else 0
        return Combination(candidate, shots, chosen, order)

    def parameters(self, combination: Combination) -> dict[str, int]:
        """The parameters with which `suggested` gives ``combination``."""
        candidate, shots, chosen, order = combination
        sets = self.sets[shots]
        return {
            "candidate": candidate,
            "shots": shots,
            **({f"set of {shots}": chosen} if len(sets) > 1 else {}),
            **({f"order of set {chosen} of {shots}": order} if len(sets[chosen]) > 1 else {}),
        }
