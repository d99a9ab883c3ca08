"""Sets of examples for prompts, drawn from the training split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.search.near import NearRows
from finetune_trainer.search.prompt import Rows

SETS = 8
"""Sets of examples of each size."""
ORDERS = 4
"""Orders of each set, the drawn one first."""
_MOST_LOOKED_AT = 2000
"""Rows that a draw looks at; more if as many are wanted."""
_ATTEMPTS = 20
"""Draws for each set or order, some of which are equal to an earlier one."""


@dataclass(frozen=True)
class Pool:
    """Training rows that may be examples."""

    rows: Rows
    """All training rows."""
    labels: Sequence[str]
    """The labels; none if the answers are texts."""
    order: tuple[int, ...]
    """Indices of the rows that may be examples, in the order of the draw."""
    looked_at: int
    """Rows that the draw looked at, until it had enough."""

    @property
    def near(self) -> int:
        """Rows of these that were left out, because they are nearly rows of validation or test."""
        return self.looked_at - len(self.order)


def draw_pool(
    rows: Rows,
    labels: Sequence[str],
    held_out: NearRows,
    wanted: int,
    seed: int,
    *,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Pool:
    """Draw training rows that are not nearly held-out ones, until there are enough or all are looked at.

    Args:
        rows: The training rows.
        labels: The labels, which take turns in the draw; none if the answers are texts.
        held_out: Whether a row is nearly one of validation or test.
        wanted: Rows to draw, for each label if there are labels. A label with fewer leaves its part to the others.
        seed: Seed of the draw.
        on_rows: Called with the number of rows that are looked at, after each.
    """
    turns = list(_turns(rows, labels, seed))
    in_all = wanted * max(1, len(labels))
    most = max(_MOST_LOOKED_AT, in_all)
    found: list[int] = []
    seen: set[int] = set()
    of_label: Counter[str] = Counter()
    for quota in (wanted, in_all):
        for one in turns:
            if len(found) == in_all or len(seen) == most:
                break
            label = rows.answers[one] if labels else ""
            if one in seen or of_label[label] == quota:
                continue
            seen.add(one)
            on_rows(len(seen))
            if not held_out(rows.inputs[one]):
                found.append(one)
                of_label[label] += 1
    return Pool(rows, labels, tuple(found), len(seen))


def _turns(rows: Rows, labels: Sequence[str], seed: int) -> Iterator[int]:
    """Indices of training rows at random, the labels in turns."""
    shuffled = np.random.default_rng(seed).permutation(len(rows)).tolist()
    if not labels:
        yield from shuffled
        return
    of_label: dict[str, list[int]] = defaultdict(list)
    for index in shuffled:
        of_label[rows.answers[index]].append(index)
    for turn in range(max(map(len, of_label.values()), default=0)):
        yield from (of_label[label][turn] for label in labels if turn < len(of_label[label]))


def draw_sets(pool: Pool, size: int, seed: int) -> list[tuple[int, ...]]:
    """Different sets of ``size`` examples, at most `SETS`; those of a classifier have each label about as often.

    Raises:
        StageFailure: BadConfiguration when the pool is smaller.
    """
    if size > len(pool.order):
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"method.promptSearch.shots asks for {size} examples, but only {len(pool.order)} of the {pool.looked_at} "
            f"training rows that were looked at can be examples ({pool.near} are nearly the same as a row of "
            f"validation or test): lower it to at most {len(pool.order)}, or add training rows",
        )
    if size == 0:
        return [()]
    generator = np.random.default_rng((seed, size))
    found: dict[frozenset[int], tuple[int, ...]] = {}
    for _ in range(SETS * _ATTEMPTS):
        drawn = _balanced(pool, size, generator)
        found.setdefault(frozenset(drawn), drawn)
        if len(found) == SETS:
            break
    return list(found.values())


def _balanced(pool: Pool, size: int, generator: np.random.Generator) -> tuple[int, ...]:
    rows, labels = pool.rows, pool.labels
    shuffled = generator.permutation(np.asarray(pool.order, np.int64)).tolist()
    if not labels:
        return tuple(shuffled[:size])
    of_label: dict[str, list[int]] = defaultdict(list)
    for index in shuffled:
        of_label[rows.answers[index]].append(index)
    chosen: list[int] = []
    while len(chosen) < size:
        # Each round takes one row of each label, in a random order of the labels.
        for place in generator.permutation(len(labels)).tolist():
            if of_label[labels[place]] and len(chosen) < size:
                chosen.append(of_label[labels[place]].pop())
    return tuple(generator.permutation(np.asarray(chosen, np.int64)).tolist())


def draw_orders(examples: tuple[int, ...], seed: int) -> list[tuple[int, ...]]:
    """Different orders of a set, at most `ORDERS`."""
    generator = np.random.default_rng((seed, *sorted(examples)))
    found = {examples: None}
    for _ in range(ORDERS * _ATTEMPTS):
        if len(found) == ORDERS or len(examples) < 2:
            break
        found.setdefault(tuple(generator.permutation(np.asarray(examples, np.int64)).tolist()), None)
    return list(found)
