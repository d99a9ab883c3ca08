"""What was found about a model type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.families.compare import Wrong


@dataclass
class Finding:
    """The result of one model type; a check that was not reached is absent."""

    model_class: str = ""
    attention: str = ""
    checks: dict[str, str] = field(default_factory=dict)
    """By name of the check: empty when it passed, otherwise what was wrong."""
    needs_decoder: bool = False
    """Whether a token sees the tokens after it unless config.json says ``is_decoder``."""
    untrained: list[str] = field(default_factory=list)
    """Ends of the names of linear layers to which training gives no gradient."""
    unused: bool = False
    """Whether other parameters get no gradient either."""
    frozen: list[str] = field(default_factory=list)
    """Ends of the names of linear layers and experts that get a gradient, and no adapter from all-linear."""


@contextmanager
def recorded(finding: Finding, name: str) -> Iterator[None]:
    """Record the result of a check, which the block makes."""
    finding.checks.setdefault(name, "")  # What failed for one variant of a model type has failed.
    try:
        yield
    except Wrong as wrong:
        finding.checks[name] = str(wrong)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        finding.checks[name] = f"{type(error).__name__}: {first}"[:200]
