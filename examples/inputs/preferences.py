"""The data of the preference example: summaries of docstrings in two styles.

Python's standard library mostly writes "Return the value" (PEP 257), other projects "Returns the value". The preferred
answer is the second one, which the model has rarely read.
"""

from __future__ import annotations

from collections.abc import Iterable

from inputs.docstrings import shortened
from inputs.summaries import Summarized

_VERBS = """
Add Append Apply Bind Build Call Change Check Close Compare Compile Compute Construct Convert Copy Create Decode
Define Delete Determine Display Encode Execute Extract Fetch Find Format Generate Get Handle Initialize Insert
Iterate Join Load Locate Log Make Merge Move Open Parse Perform Print Process Query Raise Read Receive Register
Remove Render Replace Retrieve Return Run Save Search Send Set Split Start Stop Store Test Update Wait Write
"""
VERBS = frozenset(_VERBS.split())
MAX_CHARACTERS = 120

Pair = dict[str, str]


def pairs(summaries: Iterable[Summarized]) -> list[Pair]:
    """A pair for each summary that begins with one of `VERBS`, in either style."""
    found = []
    for example in summaries:
        first, _, rest = example.summary.partition(" ")
        verb = next(
            (verb for verb in (first, first.removesuffix("s"), first.removesuffix("es")) if verb in VERBS), None
        )
        if verb is not None:
            prompt = f"Summarize the docstring.\n\n{shortened(example.text, MAX_CHARACTERS)}\n\n"
            found.append({"prompt": prompt, "chosen": f"{descriptive(verb)} {rest}", "rejected": f"{verb} {rest}"})
    return found


def descriptive(verb: str) -> str:
    """The third person of a verb: ``Search`` becomes ``Searches``."""
    return verb + ("es" if verb.endswith(("ch", "ss", "sh", "x")) else "s")
