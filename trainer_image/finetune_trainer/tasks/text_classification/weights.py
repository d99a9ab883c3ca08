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
    """A clause about the weights.

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
    return [f"the training loss, and only it, is weighted by label: {', '.join(shown)}"]
