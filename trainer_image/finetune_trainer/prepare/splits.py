"""Which row goes to which split."""

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
    """The rows of one split: the data set they come from (train, validation or test) and their indices, ascending."""

    origin: str
    rows: list[int]


@dataclass(frozen=True)
class Assignment:
    """Every split's rows, and how many rows were removed because another split has them."""

    splits: dict[str, Selection]
    leaked: int


def draw(keys: Sequence[bytes], fractions: Sequence[float], seed: int) -> list[set[bytes]]:
    """Different keys for each of ``fractions``, chosen by a hash of seed and key.

    The choice does not depend on the order of ``keys``, equal keys stay together, and each share has at least one key
    while there are any. A row that is added or removed moves few others.
    """
    secret = seed.to_bytes(8, "little")
    # Keys are hashes already; hashing again with the seed makes an order that has nothing to do with them.
    order = sorted(set(keys), key=lambda key: hashlib.blake2b(key, digest_size=16, key=secret).digest())
    drawn: list[set[bytes]] = []
    start = 0
    for fraction in fractions:
        end = start + max(1, round(fraction * len(order)))
        drawn.append(set(order[start:end]))
        start = end
    return drawn


def assign(keys: dict[str, list[bytes]], dataset: DatasetSpec, seed: int) -> Assignment:
    """Divide the rows over the splits.

    Args:
        keys: Content keys of the rows of ``train`` and of each split that has its own data, in order.
        dataset: Which splits are a fraction of train, and whether equal rows are removed.
        seed: Seed of the draw.

    With deduplication, a row of train that validation or test has too is removed, and so is a row of validation that
    test has.
    """
    clean = dataset.cleaning.deduplicate is not Deduplication.NONE
    leaked = 0

    def kept(origin: str, rows: list[int], *taken: set[bytes]) -> list[int]:
        nonlocal leaked
        if not clean:
            return rows
        left = [rows[index] for index in without([keys[origin][row] for row in rows], *taken)]
        leaked += len(rows) - len(left)
        return left

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
    """The keys that each split with a fraction gets of the rows ``pool``."""
    fractions = [getattr(dataset, split).fraction for split in _drawn_splits(dataset)]
    return draw([keys[row] for row in pool], fractions, seed) if fractions else []


def check_sizes(assignment: Assignment, train_uri: str) -> None:
    """Refuse splits without examples.

    Raises:
        StageFailure: BadData.
    """
    removed = f" after {assignment.leaked} were removed that another split has too" if assignment.leaked else ""
    for split in ("test", "validation"):
        if not assignment.splits[split].rows:
            raise StageFailure(
                Reason.BAD_DATA, f"The {split} split has no examples{removed}: give it more data in dataset.{split}.uri"
            )
    if not assignment.splits["train"].rows:
        raise StageFailure(
            Reason.BAD_DATA, f"No example of {train_uri} is left to train on{removed}: add data or lower the fractions"
        )


def check_processes(examples: int, processes: int) -> None:
    """Refuse to share fewer training examples than there are processes.

    Raises:
        StageFailure: BadData.
    """
    if examples < processes:
        raise StageFailure(
            Reason.BAD_DATA,
            f"More processes than examples: {processes} processes (distributed.workers × gpusPerWorker) would share "
            f"{examples} training example{'' if examples == 1 else 's'}; add data or lower distributed.workers",
        )


def _drawn_splits(dataset: DatasetSpec) -> list[str]:
    return [split for split in ("test", "validation") if getattr(dataset, split).fraction is not None]
