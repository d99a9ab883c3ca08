"""What is read from the answers of a teacher: code in Markdown fences, and labels."""

from __future__ import annotations

import pytest

from finetune_trainer.endpoint.labels import labels_of
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.code_generation.teaching import code_of

BODY = "    return x\n\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (BODY, BODY),
        (f"```\n{BODY}```", BODY),
        (f'Sure:\n```python title="a.py"\n{BODY}```\nDone.', BODY),
        (f"~~~\n{BODY}~~~", BODY),
        # A longer fence has shorter ones in it, and a fence in a list is indented.
        (f"````md\n```\n{BODY}```\n````", f"```\n{BODY}```\n"),
        ("1. This:\n   ```python\n   if x:\n       y()\n   ```\n", "if x:\n    y()\n"),
        # The other sign ends nothing, and a line within code is no fence.
        ("```\na = '''\n~~~\n'''\n```", "a = '''\n~~~\n'''\n"),
        ("x = '```'\n", "x = '```'\n"),
        ("```\n```", ""),
    ],
)
def test_the_content_of_one_fence_is_the_code(answer: str, code: str) -> None:
    assert code_of(answer) == code


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (f"```\n{BODY}```\nor\n```\n{BODY}```", "has 2 fenced blocks of code, not one"),
        (f"```\n{BODY}", "does not end"),
        (f"````\n{BODY}```", "does not end"),
        ("a\n```", "does not end"),
    ],
)
def test_an_answer_without_one_whole_fence_is_none(answer: str, problem: str) -> None:
    with pytest.raises(BadRow, match=problem):
        code_of(answer)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("[]", []),
        ('["B", "a"]', [1, 0]),
        ("a, B.", [0, 1]),
        ("b and c", [2]),
        ("a, a", [0]),
        ("x, y", [3]),
        ("a, d", None),
        ("[a]", None),
        ('["a", 1]', None),
        ("", None),
        ("none", None),
    ],
)
def test_labels_are_a_list_or_have_commas_between_them(answer: str, found: list[int] | None) -> None:
    assert labels_of(answer, ["a", "b", "b and c", "x, y"]) == found
