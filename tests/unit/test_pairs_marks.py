"""What the report marks in an answer."""

from __future__ import annotations

import pytest

from finetune_trainer.pairs.presentation import marked


@pytest.mark.parametrize(
    ("answer", "reference", "shown"),
    [
        ("Guten Morgen.", "Guten Morgen.", "Guten Morgen."),
        ("guten Abend.", "Guten Morgen.", "guten <mark>Abend</mark>."),
        ("ein ganz anderer Text", "Guten Morgen.", "<mark>ein ganz anderer Text</mark>"),
        ("", "Guten Morgen.", ""),
        ("<b> </mark> <mark>", "Morgen", "<mark>&lt;b&gt; &lt;/mark&gt; &lt;mark&gt;</mark>"),
        ("लड़की है", "लड़का है", "<mark>लड़की</mark> है"),
        ("今日は雨", "今日は晴れ", "今日は<mark>雨</mark>"),
    ],
)
def test_what_the_reference_does_not_have_is_marked(answer: str, reference: str, shown: str) -> None:
    assert marked(answer, reference) == shown
