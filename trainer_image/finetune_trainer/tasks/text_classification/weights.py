"""Weights of the labels in the training loss."""

from __future__ import annotations

from collections.abc import Mapping

_SHOWN = 3


def balanced(counts: Mapping[str, int]) -> dict[str, float]:
    """The weight of each label: n / (k · count), as scikit-learn's ``class_weight="balanced"``.

    Args:
        counts: Training examples by label: n together, of k labels with an example. A label without one has the weight
            1, which no example uses.
    """
    present = [count for count in counts.values() if count]
    return {label: sum(present) / (len(present) * count) if count else 1.0 for label, count in counts.items()}


def weight_notes(counts: Mapping[str, int]) -> list[str]:
    """Clauses about the weights, and about labels that the model cannot learn.

    Args:
        counts: Training examples by label.
    """
    weights = balanced(counts)
    present = sorted((label for label in counts if counts[label]), key=lambda label: weights[label])

    def rows(count: int) -> str:
        return f"{count:,} row{'' if count == 1 else 's'}"

    shown = [f"'{label[:40]}' {weights[label]:.4g} ({rows(counts[label])})" for label in present]
    if len(shown) > _SHOWN:
        shown = [shown[0], "…", shown[-1]]
    absent = [label for label, count in counts.items() if not count]
    notes = [f"the training loss, and only it, is weighted by label: {', '.join(shown)}"]
    if absent:
        names = ", ".join(f"'{label[:40]}' (0 rows)" for label in absent[:_SHOWN])
        more = ", …" if len(absent) > _SHOWN else ""
        notes.append(f"without a training row, and weight 1 without effect: {names}{more}; the model cannot learn it")
    return notes
