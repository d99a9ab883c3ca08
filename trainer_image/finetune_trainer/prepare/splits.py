"""Assign the rows of a data set to splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DatasetSpec, Deduplication
from finetune_trainer.prepare.dedupe import without

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Selection:
    """The rows of one split: their data set (train, validation or test) and their indices in it, ascending."""

    origin: str
    rows: list[int]


@dataclass(frozen=True)
class Assignment:
    """The rows of every split, and the number of rows that were removed because another split has them too."""

    splits: dict[str, Selection]
    leaked: int


def draw(keys: Sequence[bytes], fractions: Sequence[float], seed: int) -> list[set[bytes]]:
    """Draw disjoint sets of keys, one for each of ``fractions``, by a hash of seed and key.

    The result does not depend on the order of ``keys``. Equal keys are in the same set, and each set has at least one
    key as long as there are keys. Adding or removing a row changes the assignment of few others.
    """
    secret = seed.to_bytes(8, "little")
    # Keys are hashes; hashing them again with the seed gives an order that is independent of the keys.
    order = sorted(set(keys), key=lambda key: hashlib.blake2b(key, digest_size=16, key=secret).digest())
    drawn: list[set[bytes]] = []
    start = 0
    for fraction in fractions:
        end = start + max(1, round(fraction * len(order)))
        drawn.append(set(order[start:end]))
        start = end
    return drawn


def assign(keys: dict[str, list[bytes]], dataset: DatasetSpec, seed: int) -> Assignment:
    """Assign the rows to the splits.

    With deduplication, rows of train that are also in validation or test are removed, and so are rows of validation
    that are also in test.

    Args:
        keys: Content keys of the rows of ``train`` and of each split with its own data set, in order.
        dataset: The fractions of the splits, and whether equal rows are removed.
        seed: Seed of the draw.
    """
    deduplicate = dataset.cleaning.deduplicate is not Deduplication.NONE
    leaked = 0

    def kept(origin: str, rows: list[int], *taken: set[bytes]) -> list[int]:
        nonlocal leaked
        if not deduplicate:
            return rows
        remaining = [rows[index] for index in without([keys[origin][row] for row in rows], *taken)]
        leaked += len(rows) - len(remaining)
        return remaining

    pool = list(range(len(keys["train"])))
    own_test = set(keys.get("test", ()))
    own_validation = set(keys.get("validation", ()))
    pool = kept("train", pool, own_test)
    drawn = dict(zip(_drawn_splits(dataset), draw_rows(keys["train"], pool, dataset, seed), strict=True))
    splits: dict[str, Selection] = {}
    taken: set[bytes] = set()
    for split, own in (("test", own_test), ("validation", own_validation)):
        if split in drawn:
            splits[split] = Selection("train", [row for row in pool if keys["train"][row] in drawn[split]])
            pool = [row for row in pool if keys["train"][row] not in drawn[split]]
        else:
            splits[split] = Selection(split, kept(split, list(range(len(keys[split]))), taken))
        taken |= drawn.get(split, own)
    splits["train"] = Selection("train", kept("train", pool, own_validation))
    return Assignment({split: splits[split] for split in SPLITS}, leaked)


def draw_rows(keys: Sequence[bytes], pool: Sequence[int], dataset: DatasetSpec, seed: int) -> list[set[bytes]]:
    """Draw the keys of each split that is a fraction of train from the rows ``pool``."""
    fractions = [getattr(dataset, split).fraction for split in _drawn_splits(dataset)]
    return draw([keys[row] for row in pool], fractions, seed) if fractions else []


def check_sizes(assignment: Assignment, train_uri: str) -> None:
    """Check that every split has examples.

    Raises:
        StageFailure: BadData when a split has none.
    """
    removed = f" after removal of {assignment.leaked} that are also in another split" if assignment.leaked else ""
    for split in ("test", "validation"):
        if not assignment.splits[split].rows:
            raise StageFailure(
                Reason.BAD_DATA, f"The {split} split has no examples{removed}: add data, or set dataset.{split}.uri"
            )
    if not assignment.splits["train"].rows:
        raise StageFailure(
            Reason.BAD_DATA, f"The train split of {train_uri} has no examples{removed}: add data or lower the fractions"
        )


def check_processes(examples: int, processes: int) -> None:
    """Check that there is a training example for every process.

    Raises:
        StageFailure: BadData when there are fewer examples than processes.
    """
    if examples < processes:
        raise StageFailure(
            Reason.BAD_DATA,
            f"More processes than examples: {processes} processes (distributed.workers × gpusPerWorker) would share "
            f"{examples} training example{'' if examples == 1 else 's'}; add data or lower distributed.workers",
        )


def _drawn_splits(dataset: DatasetSpec) -> list[str]:
    return [split for split in ("test", "validation") if getattr(dataset, split).fraction is not None]
