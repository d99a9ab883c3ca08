"""The data of the code example: functions of one line, with tests. They are generated.

The constants of the test split are not in the training split, so the model has to read them in the prompt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_NUMBERS = (0, 1, -7, 12, 250)
_TEXTS = ("", "a", "planet", "two words")
_LISTS = ((), (5,), (3, -2, 14), (40, 8, 96, 8))
_NAMES = """
value amount price number count total size score level weight height width length speed time age year index start
text word line name title label message phrase answer question city street color letter
items values numbers scores prices sizes rows parts points ages years levels weights results lines
"""
_CONSTANTS = range(10, 100)
_TEST_SHARE = 0.2
"""Of the constants."""


@dataclass(frozen=True)
class Kind:
    """A kind of function: its documentation and its body, with the fields ``x`` for the parameter and ``n``."""

    documentation: str
    body: str
    arguments: tuple[object, ...]
    """What its tests call it with."""


KINDS = (
    Kind("Return {x} plus {n}.", "{x} + {n}", _NUMBERS),
    Kind("Return {x} minus {n}.", "{x} - {n}", _NUMBERS),
    Kind("Return {n} minus {x}.", "{n} - {x}", _NUMBERS),
    Kind("Return {x} times {n}.", "{x} * {n}", _NUMBERS),
    Kind("Return the remainder of {x} divided by {n}.", "{x} % {n}", _NUMBERS),
    Kind("Return the larger of {x} and {n}.", "max({x}, {n})", _NUMBERS),
    Kind("Return whether {x} is above {n}.", "{x} > {n}", _NUMBERS),
    Kind("Return the first {n} characters of {x}.", "{x}[:{n}]", _TEXTS),
    Kind("Return {x} without its first {n} characters.", "{x}[{n}:]", _TEXTS),
    Kind("Return {x}, written {n} times.", "{x} * {n}", _TEXTS),
    Kind("Return whether {x} has {n} characters.", "len({x}) == {n}", _TEXTS),
    Kind("Return {x} in upper case, followed by {n}.", "{x}.upper() + '{n}'", _TEXTS),
    Kind("Return the sum of {x}, plus {n}.", "sum({x}) + {n}", _LISTS),
    Kind("Return the items of {x}, each plus {n}.", "[item + {n} for item in {x}]", _LISTS),
    Kind("Return the items of {x} that are above {n}.", "[item for item in {x} if item > {n}]", _LISTS),
    Kind("Return how many items of {x} equal {n}.", "list({x}).count({n})", _LISTS),
)


def functions(count: int, *, for_test: bool) -> Iterator[dict[str, str]]:
    """Rows with a prompt and its completion, and with tests in the test split; no two are the same."""
    draw = random.Random(f"one-liners {for_test}")
    names = _NAMES.split()
    constants = [number for number in _CONSTANTS if is_held_out(number) is for_test]
    seen: set[str] = set()
    while len(seen) < count:
        kind, name, constant = draw.choice(KINDS), draw.choice(names), draw.choice(constants)
        documentation, body = (text.format(x=name, n=constant) for text in (kind.documentation, kind.body))
        prompt = f'def f({name}):\n    """{documentation}"""\n'
        if prompt not in seen:
            seen.add(prompt)
            row = {"prompt": prompt, "completion": f"    return {body}\n"}
            yield row | ({"tests": _tests(kind, constant)} if for_test else {})


def is_held_out(constant: int) -> bool:
    """Whether this constant belongs to test."""
    return int(hashlib.sha256(str(constant).encode()).hexdigest()[:8], 16) < _TEST_SHARE * 16**8


def _tests(kind: Kind, constant: int) -> str:
    """Asserts for all arguments and, because most of those are on one side of a constant, for the constant itself."""
    arguments: list[object] = [*kind.arguments, *_near(kind, constant)]
    right: Callable[[object], object] = eval(f"lambda x: {kind.body.format(x='x', n=constant)}")
    return "".join(f"assert f({argument!r}) == {right(argument)!r}\n" for argument in arguments)


def _near(kind: Kind, constant: int) -> list[object]:
    if kind.arguments is _TEXTS:
        letters = "abcdefghij" * 10
        return [letters[:constant], letters[: constant + 1]]
    numbers = (constant, constant + 1)
    return [numbers] if kind.arguments is _LISTS else list(numbers)
