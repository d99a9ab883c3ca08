"""Separators and quoting of CSV and tab-separated files."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.prepare.readers import columns_of
from tests.unit.prepare_cases import a_file, rows_of


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        ("text;label\na,b;c\n", ("text", "label"), "CSV separated by ';'"),
        ('"text, all";label\na,b;c\n', ("text, all", "label"), "CSV separated by ';'"),
        ("text|label\na|b\n", ("text", "label"), "CSV separated by '|'"),
        ("text\tlabel\na\tb\n", ("text", "label"), "tab-separated with quoted fields"),
        ("text,label\na;b,c\n", ("text", "label"), "CSV"),
        ("text;note,label\na;b,c\n", ("text;note", "label"), "CSV"),
        ("text, long;label\na, b, c;d\n", ("text, long", "label"), "CSV separated by ';'"),
        ("text\na\n", ("text",), "CSV"),
        ("sep=;\r\ntext;label\r\na;b\r\n", ("text", "label"), "CSV separated by ';'"),
        ("text,label", ("text", "label"), "CSV"),
    ],
)
def test_the_separator_is_that_of_the_header(
    tmp_path: Path, content: str, columns: tuple[str, ...], words: str
) -> None:
    file = a_file(tmp_path / "a.csv", content)
    assert columns_of(file) == columns
    assert str(file.form) == words


def test_decimal_commas_stay_in_their_fields(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.csv", "text;label;score\nx;y;0,5\n")
    assert rows_of(file) == [(2, {"text": "x", "label": "y", "score": "0,5"})]


def test_the_lines_of_a_file_with_a_separator_line_are_counted_from_it(tmp_path: Path) -> None:
    assert rows_of(a_file(tmp_path / "a.csv", "sep=;\ntext;label\na;b\n")) == [(3, {"text": "a", "label": "b"})]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        # IANA: a quote is text.
        ('text\tlabel\n"Hello" he said\ta\nsay "no"\tb\n', ['"Hello" he said', 'say "no"']),
        ('text\tlabel\n"Hello"\ta\n', ['"Hello"']),
        ('text\tlabel\n"open\ta\nx\tb\n', ['"open', "x"]),
        # An open and a closing quote, lines apart: quoting would swallow the rows in between.
        ('text\tlabel\n"one\ta\ntwo"\tb\nthree\tc\n', ['"one', 'two"', "three"]),
        # csv.writer and pandas quote fields that have a tab, a quote or a line break.
        (
            'text\tlabel\n"a\tb"\ta\n"say ""no"""\tb\n"two\nlines"\tc\nx, y\td\n',
            ["a\tb", 'say "no"', "two\nlines", "x, y"],
        ),
        # Excel also quotes fields that have a comma.
        ('text\tlabel\n"x, y"\ta\n"say ""no"""\tb\n', ["x, y", 'say "no"']),
        # Quoting of all fields, or of all but numbers.
        ('"text"\t"label"\n"a"\t"b"\n', ["a"]),
        ('"text"\t"label"\n"a"\t1\n', ["a"]),
    ],
)
def test_quotes_of_tab_separated_files_enclose_fields_only_where_a_writer_of_csv_puts_them(
    tmp_path: Path, content: str, texts: list[str]
) -> None:
    found = rows_of(a_file(tmp_path / "a.tsv", content))
    assert [values["text"] for _, values in found] == texts  # type: ignore[index]


def test_every_line_that_an_open_quote_swallows_is_invalid(tmp_path: Path) -> None:
    content = 'text,label\na,b\n"open,c\nd,e\nf,"g\nh,i\n'
    assert rows_of(a_file(tmp_path / "a.csv", content)) == [
        (2, {"text": "a", "label": "b"}),
        (3, "invalid quoting (',' expected after '\"'); double each quote inside a quoted field"),
        (4, "the line follows the open quote in line 3; close that quote"),
        (5, "the line follows the open quote in line 3; close that quote"),
        (6, {"text": "h", "label": "i"}),
    ]


def test_a_ragged_row_over_several_lines_names_its_last(tmp_path: Path) -> None:
    (found,) = rows_of(a_file(tmp_path / "a.csv", 'text,label\n"a\nb",c,d\n'))
    assert found[0] == 2
    assert str(found[1]).startswith("the row, which goes on to line 3, has 3 fields and the header 2;")


def test_columns_without_a_name_are_no_duplicates(tmp_path: Path) -> None:
    assert rows_of(a_file(tmp_path / "a.csv", "text;label;;\na;b;;\n")) == [(2, {"text": "a", "label": "b", "": ""})]


@pytest.mark.parametrize("content", ["text,label", "text,label\n", "text,label\r\n\r\n", "\ufefftext,label\n"])
def test_a_header_without_rows_has_no_rows(tmp_path: Path, content: str) -> None:
    assert rows_of(a_file(tmp_path / "a.csv", content)) == []


def test_a_row_of_megabytes_is_read(tmp_path: Path) -> None:
    text = 'many "words", and lines\n' * 100_000
    content = 'text,label\n"' + text.replace('"', '""') + '",a\nb,c\n'
    assert rows_of(a_file(tmp_path / "a.csv", content)) == [
        (2, {"text": text, "label": "a"}),
        (100_003, {"text": "b", "label": "c"}),
    ]
