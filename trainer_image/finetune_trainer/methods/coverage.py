"""Which weights of the base model an adapter changes, in words and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_NAMED_SHARE = 0.005
"""Weights without an adapter are named if they have at least this share of all weights."""


@dataclass(frozen=True)
class Weight:
    """A parameter of the base model."""

    name: str
    """Name in the base model, such as ``layers.0.self_attn.q_proj.weight``."""
    size: int
    adapted: bool
    """Whether the adapter changes it, or trains it fully."""


@dataclass(frozen=True)
class Coverage:
    """Which weights of the base model are adapted."""

    modules: dict[str, int]
    """Number of adapted or fully trained modules, by the last part of their name."""
    share: float
    """Share of the weights that the adapter changes."""
    left_out: dict[str, float]
    """Share of the weights that stay as they are, by the end of their name, largest first."""

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Coverage:
        """The coverage that `summary` has written."""
        return cls(summary["modules"], summary["share"], summary["leftOut"])

    @property
    def summary(self) -> dict[str, Any]:
        """The object in ``training.json``."""
        left_out = {name: round(share, 6) for name, share in self.left_out.items()}
        return {"modules": self.modules, "share": round(self.share, 6), "leftOut": left_out}

    @property
    def changed(self) -> str:
        """Such as ``12.5 %: 4 q_proj, 4 v_proj``."""
        return f"{_percent(self.share)}: {', '.join(f'{count} {name}' for name, count in self.modules.items())}"

    @property
    def unchanged(self) -> str:
        """Such as ``experts.gate_up_proj 54.1 %, experts.down_proj 27.0 %``; only names with a relevant share."""
        return ", ".join(f"{name} {_percent(share)}" for name, share in self.left_out.items())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def measure(weights: Iterable[Weight]) -> Coverage:
    """The coverage of all parameters of a base model, each of which occurs once."""
    modules: Counter[str] = Counter()
    left: Counter[str] = Counter()
    total = adapted = 0
    for weight in weights:
        total += weight.size
        path = [part for part in weight.name.split(".") if not part.isdecimal()]
        if weight.adapted:
            adapted += weight.size
            modules[_module(path)] += path[-1] != "bias"
        else:
            left[".".join(path[-2:]).removesuffix(".weight").removesuffix(".bias")] += weight.size
    return Coverage(
        modules={name: count for name, count in sorted(modules.items()) if count},
        share=adapted / total if total else 0.0,
        left_out={name: size / total for name, size in left.most_common() if size >= _NAMED_SHARE * total},
    )


def _module(path: list[str]) -> str:
    """The name of the module of a parameter."""
    return path[-2] if path[-1] in ("weight", "bias") and len(path) > 1 else path[-1]
