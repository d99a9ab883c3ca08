"""Assign the rows of a data set to splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DatasetSpec, Deduplication
from finetune_trainer.prepare.dedupe import without

TEST = "test"
SPLITS = ("train", "validation", TEST)


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
    groups: int | None = None
    """Number of the groups of rows that stay together in a split; None if every row is drawn by itself."""


def draw(
    keys: Iterable[bytes], fractions: Mapping[str, float], seed: int, test_minimum: int = 0
) -> dict[str, set[bytes]]:
    """Draw disjoint sets of keys, one for each split in ``fractions``, by a hash of seed and key.

    Whether a key is drawn does not depend on other keys: when rows are added, no training row becomes a test row. So a
    split has its fraction of all rows, and of the rows of each label, only on average. Equal keys are in the same set.

    Args:
        keys: Keys of the rows to draw from: of their content, or of the group that stays together.
        fractions: Share of the rows for each split.
        seed: Seed of the draw.
        test_minimum: Rows that the test split has at least, if its fraction of all rows is that many.
    """
    rows = Counter(keys)
    secret = seed.to_bytes(8, "little")
    # Keys are hashes; hashing them again with the seed gives numbers that are independent of the keys.
    numbers = {key: _share(hashlib.blake2b(key, digest_size=8, key=secret).digest()) for key in rows}
    drawn: dict[str, set[bytes]] = {}
    start = 0.0
    for split, fraction in fractions.items():
        drawn[split] = {key for key, number in numbers.items() if start <= number < start + fraction}
        start += fraction
    if round(fractions.get(TEST, 0.0) * rows.total()) >= test_minimum > 0:
        # The rows with the lowest numbers: an added row may replace one of them, but moves no other row to test.
        lowest = _lowest(numbers, rows, test_minimum)
        drawn = {split: of_split | lowest if split == TEST else of_split - lowest for split, of_split in drawn.items()}
    for split, of_split in drawn.items():
        # A small data set may leave none for a split. It then gets the row with the lowest number, which stays the
        # lowest or is replaced by an added row.
        free = numbers.keys() - set().union(*drawn.values())
        if not of_split and len(free) > 1:
            drawn[split] = {min(free, key=numbers.__getitem__)}
    return drawn


def _lowest(numbers: Mapping[bytes, float], rows: Mapping[bytes, int], minimum: int) -> set[bytes]:
    """The keys with the lowest numbers that have ``minimum`` rows together; never all of them."""
    lowest: set[bytes] = set()
    found = 0
    for key in sorted(numbers, key=numbers.__getitem__)[:-1]:
        if found >= minimum:
            break
        lowest.add(key)
        found += rows[key]
    return lowest


def _share(digest: bytes) -> float:
    """A hash as a number from 0 to below 1."""
    return int.from_bytes(digest[:6], "big") / 2**48


def assign(
    keys: Mapping[str, Sequence[bytes]], dataset: DatasetSpec, seed: int, groups: Sequence[bytes] | None = None
) -> Assignment:
    """Assign the rows to the splits.

    With deduplication, rows of train that are also in validation or test are removed, and so are rows of validation
    that are also in test.

    Args:
        keys: Content keys of the rows of ``train`` and of each split with its own data set, in order.
        dataset: The fractions of the splits, and whether equal rows are removed.
        seed: Seed of the draw.
        groups: The group of each row of ``train``, all rows of which are in one split; None draws by content.
    """
    groups = keys["train"] if groups is None else groups
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
    candidates = (groups[row] for row in pool)
    drawn = draw(candidates, _fractions(dataset), seed, dataset.test.minimum_examples)
    splits: dict[str, Selection] = {}
    taken: set[bytes] = set()
    for split, own in (("test", own_test), ("validation", own_validation)):
        if split in drawn:
            splits[split] = Selection("train", [row for row in pool if groups[row] in drawn[split]])
            pool = [row for row in pool if groups[row] not in drawn[split]]
        else:
            splits[split] = Selection(split, kept(split, list(range(len(keys[split]))), taken))
        taken |= {keys["train"][row] for row in splits[split].rows} if split in drawn else own
    splits["train"] = Selection("train", kept("train", pool, own_validation))
    count = len(set(groups))
    alone = count == len(set(keys["train"]))
    return Assignment({split: splits[split] for split in SPLITS}, leaked, None if alone else count)


def check_sizes(assignment: Assignment, dataset: DatasetSpec, more: str = "add data") -> None:
    """Check that every split has examples, and test as many as a comparison needs.

    Args:
        assignment: The rows of the splits.
        dataset: The fractions of the splits.
        more: What gives a split more examples, for messages.

    Raises:
        StageFailure: BadData when a split has too few.
    """
    removed = f" after removal of {assignment.leaked} that are also in another split" if assignment.leaked else ""
    together = ""
    if assignment.groups is not None:
        together = f", because rows of one text or title stay together, and train has {assignment.groups} of them"
    for split, selection in assignment.splits.items():
        if not selection.rows:
            where = f"the {split} split" if split != "train" else f"the train split of {dataset.train.uri}"
            raise StageFailure(
                Reason.BAD_DATA,
                f"There are no examples in {where}{removed}{_drawn(selection, together)}: {more}, or change the "
                "fractions",
            )
    removed += _drawn(assignment.splits[TEST], together)
    found, minimum = len(assignment.splits[TEST].rows), dataset.test.minimum_examples
    if found < minimum:
        raise StageFailure(
            Reason.BAD_DATA,
            f"The test split has {found} example{'' if found == 1 else 's'}{removed}, too few to compare the tuned "
            f"model with its baseline: {more}, raise dataset.test.fraction, or lower dataset.test.minimumExamples "
            f"from {minimum}",
        )


def _drawn(selection: Selection, clause: str) -> str:
    """``clause``, for a split that is drawn from the training data."""
    return clause if selection.origin == "train" else ""


def check_processes(count: int, processes: int, unit: str) -> None:
    """Check that there is a training example, or a row of several, for every process.

    Raises:
        StageFailure: BadData when there are fewer than processes.
    """
    if count < processes:
        raise StageFailure(
            Reason.BAD_DATA,
            f"More processes than {unit}s: {processes} processes (distributed.workers × gpusPerWorker) would share "
            f"{count} training {unit}{'' if count == 1 else 's'}; add data or lower distributed.workers",
        )


def _fractions(dataset: DatasetSpec) -> dict[str, float]:
    """The splits that are drawn from train, each with its share of it."""
    sources = {TEST: dataset.test, "validation": dataset.validation}
    return {split: source.fraction for split, source in sources.items() if source.fraction is not None}
