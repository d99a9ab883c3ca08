"""Rows of TextClassification with a list of labels."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.text_classification.label_lists import LabelListRows
from finetune_trainer.tasks.text_classification.recognition import recognise
from finetune_trainer.tasks.text_classification.rows import LabelledRows, divided_label


def labels(cell: Any, known: str = "", *, separated: bool = False) -> tuple[str, ...]:
    rows = LabelListRows("text", "label", frozenset(known.split(",")) if known else None, separated=separated)
    return rows.example({"text": "a text", "label": cell}).labels


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["a", "b"], ("a", "b")),
        ([], ()),
        (["a", " a "], ("a",)),
        ([1, True, 2.0], ("1", "true", "2")),
        ('["a", "b;c"]', ("a", "b;c")),
        ("['a', 'b']", ("a", "b")),
        ("[]", ()),
        ([1, 0], ("1", "0")),
        (["a", "a"], ("a",)),
    ],
)
def test_a_list_is_read_in_every_format(cell: Any, expected: tuple[str, ...]) -> None:
    assert labels(cell) == expected
    assert labels(cell, separated=True) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a; b", ("a", "b")),
        ("a|b", ("a", "b")),
        ("a", ("a",)),
        ("", ()),
        ("  ", ()),
        ("a, b", ("a, b",)),
        ("a; b; ", ("a", "b")),
    ],
)
def test_a_cell_of_csv_may_have_a_separator(cell: str, expected: tuple[str, ...]) -> None:
    assert labels(cell, separated=True) == expected


def test_a_known_label_with_a_separator_is_one_label() -> None:
    assert labels("a;b", "a;b,c", separated=True) == ("a;b",)


@pytest.mark.parametrize(
    ("cell", "known", "separated", "message"),
    [
        ("a", "", False, "contains a string, not a list; write a list of labels, or remove task.multiLabel"),
        (None, "", False, r"contains null, not a list; write \[\] for a row without labels"),
        (3, "", True, "contains a number, not a list"),
        ("[a, b]", "", True, r"begins with \[ but is not a list"),
        ("['a' 'b']", "", True, r"begins with \[ but is not a list"),
        ([0, 1, 0], "", False, "has a zero or a one for each label, not the labels of the row"),
        ([0.0, 0.0], "", False, "has a zero or a one for each label"),
        ("[False, True, True]", "", True, "has a zero or a one for each label"),
        ("0;1;1", "", True, "has a zero or a one for each label"),
        ("a;b|c", "", True, r"may be divided at several places \(a;b|c\)"),
        ("a;b", "a;b,a,b", True, "may be divided at several places"),
        ("a;;b", "", True, "is empty"),
        (["a", ""], "", False, "is empty"),
        (["a", None], "", False, "contains null, not text"),
        ([0.5], "", False, r"contains the number 0.5.*learns no quantities"),
        (["a", "x"], "a,b", False, "label 'x' is not in task.labels"),
    ],
)
def test_other_cells_are_invalid(cell: Any, known: str, separated: bool, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        labels(cell, known, separated=separated)


def test_a_list_without_multi_label_names_the_setting() -> None:
    with pytest.raises(BadRow, match=r"contains a list; set task\.multiLabel to true"):
        LabelledRows("text", "label", None).example({"text": "a", "label": ["b"]})


def test_a_quantity_is_no_label() -> None:
    with pytest.raises(BadRow, match="learns no quantities"):
        LabelledRows("text", "label", None).example({"text": "a", "label": 0.5})


@pytest.mark.parametrize("sign", [";", "|", ","])
@pytest.mark.parametrize("column", ["label", "Tags (agent)"])
def test_labels_with_a_separator_are_recognised(sign: str, column: str) -> None:
    cells = ["billing", f"billing{sign} refund", f"refund{sign}login", "login", "", None]
    rows = [{"no": n, "wrote": f"a text {n}", column: cells[n % 6], "from": ["mail", "chat"][n % 2]} for n in range(36)]
    found = recognise(("no", "wrote", column, "from"), rows)
    assert found
    assert found.columns == {"text": "wrote", "label": column}
    assert found.settings == {"multiLabel": True}
    assert found.facts == "3 labels in the first 36 rows: 'billing', 'login', 'refund'"
    assert found.open == (f"Column '{column}' has commas between labels: write ; or | instead." if sign == "," else "")


@pytest.mark.parametrize(
    ("cells", "bits"),
    [
        ([[0, 1, 0], [1, 1, 0]], True),
        (["[0, 1]", "[1, 1]"], True),
        ([[True, False], [False, True]], True),
        ([["0", "1"], ["2"]], False),
        ([[], []], False),
    ],
)
def test_lists_with_one_bit_per_label_are_to_be_rewritten(cells: list[Any], bits: bool) -> None:
    found = recognise(("text", "label"), [{"text": f"a text {n}", "label": cells[n % 2]} for n in range(30)])
    assert found
    wanted = "Column 'label' has a zero or a one for each label: write the names of the labels of a row instead."
    assert found.open == (wanted if bits else "")


@pytest.mark.parametrize("odd", ["billing; refund", ["billing", "refund"], "['billing', 'refund']"])
def test_one_cell_makes_no_lists(odd: Any) -> None:
    rows = [{"text": f"a text {n}", "label": ["billing", "refund"][n % 2]} for n in range(30)]
    found = recognise(("text", "label"), [*rows, {"text": "a", "label": odd}])
    assert found
    assert found.settings == {}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("billing|bug|billing, bug|bug, login", ("billing, bug", ",")),
        ("a;b|b;c|a;c", ("a;b", ";")),
        ("billing|bug|billing, bug", None),
        ("Health, Safety|Finance|Law, Order|IT", None),
        ("billing|bug", None),
    ],
)
def test_labels_that_are_lists(names: str, expected: tuple[str, str] | None) -> None:
    assert divided_label(names.split("|")) == expected
