"""The ranks of the adapted modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

from finetune_api.failures import Reason, StageFailure

_NAMED = 8


def check_ranks(
    shapes: Mapping[str, tuple[int, int]], rank: int, pattern: Mapping[str, int], *, each: bool = False
) -> None:
    """Check that each key of ``pattern`` fits a module, no module has two, and no rank exceeds its modules.

    A key fits a module as in `peft.utils.other.get_pattern_key`: it is a regular expression for its name or for an end
    of its name after a dot.

    Args:
        shapes: (outputs, inputs) of each adapted module, by its name.
        rank: Rank of the modules that no key fits.
        pattern: ``method.lora.rankPattern``.
        each: Whether each module must have the rank, and not only the largest. A larger rank is a waste in a small one,
            but an initialisation from its weights has no more directions than it has.

    Raises:
        StageFailure: BadConfiguration when the ranks do not fit the modules.
    """
    found: dict[str, list[str]] = {name: [] for name in shapes}
    for key in pattern:
        for name in _fitting(key, shapes):
            found[name].append(key)
    if twice := [name for name, keys in found.items() if len(keys) > 1]:
        keys = " and ".join(f"'{key}'" for key in found[twice[0]])
        raise _bad(f"{keys} both fit {twice[0]}, so that its rank is not clear: make them different")
    for key in ("", *pattern):
        wanted = pattern[key] if key else rank
        highest = {name: min(shapes[name]) for name, keys in found.items() if (keys or [""]) == [key]}
        if not highest:
            continue
        name = (min if each else max)(highest, key=lambda name: highest[name])
        if wanted > highest[name]:
            field = f"rankPattern['{key}']" if key else "rank"
            outputs, inputs = shapes[name]
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"method.lora.{field} is {wanted}, but {name}{'' if each else ', the largest of its modules,'} has "
                f"{inputs} inputs and {outputs} outputs, and so at most rank {highest[name]}: lower it",
            )


def _fitting(key: str, shapes: Mapping[str, object]) -> list[str]:
    """The names of ``shapes`` that ``key`` fits."""
    try:
        expression = re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        raise _bad(f"'{key}' is not a valid regular expression ({error})") from None
    fits = [name for name in shapes if expression.match(name)]
    if not fits:
        raise _bad(f"'{key}' fits no adapted module; adapted modules are {_listed(shapes)}")
    return fits


def _listed(names: Mapping[str, object]) -> str:
    shown = sorted(names)
    rest = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + rest


def _bad(text: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, f"method.lora.rankPattern: {text}")
