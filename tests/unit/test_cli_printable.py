"""Text from elsewhere on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from finetune_api.text import clean
from finetune_cli.lint import lint
from finetune_cli.output import Output, to_json, to_yaml, write
from finetune_cli.printable import is_printable, printable

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "eight-bit colour": "\x9b31mred",
    "title": "\x1b]0;owned\x07red",
    "link": "\x1b]8;;https://example.com\x1b\\red",
    "device control": "\x1bP1$r0m\x1b\\red",
    "reset": "\x1bcred",
    "cut off": "red\x1b[",
    "return": "red\r",
    "backspace": "r\x08ed",
    "direction": "r\u202eed\u2066\u200f",
    "line separator": "red\u2028",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_left_that_a_terminal_interprets(text: str) -> None:
    for shown in (clean(text), printable(text)):
        assert is_printable(shown)
        assert "".join(shown.removesuffix("[").split()) == "red"


def test_ordinary_text_is_unchanged() -> None:
    text = "Grüße, 日本語, עברית, 👩\u200d🔬\tx\ny"
    assert printable(text) == text
    assert clean("two\nlines") == "two lines"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_documents_contain_the_text_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"a": text, text: ["plain", text, f"two\n{text}"]}
    for document, parsed in ((to_json(content), json.loads), (to_yaml(content), yaml.safe_load)):
        assert is_printable(document)
        write(document)
        assert parsed(capsys.readouterr().out) == content


@pytest.mark.parametrize("output", [Output.TEXT, Output.JSON])
def test_lint_quotes_a_hostile_manifest(tmp_path: Path, output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "\x1b[31mjob.yaml"
    path.write_text(
        "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: a}\nspec:\n"
        '  model: {uri: "hf://a/\\e[2Jb\\u202Ec d"}\n  "\\e]0;x\\a": 1\n  task: {type: "\\u009b31m"}\n'
    )
    assert lint([str(path)], output) == 64
    captured = capsys.readouterr()
    assert is_printable(captured.out + captured.err)
    assert "model.uri" in captured.out
