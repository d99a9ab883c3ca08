"""Parses YAML as kubectl does, and records the line of each field.

Scalars have the types that ``kubectl apply`` gives them (YAML 1.1 with JSON's numbers): ``2e-4`` is a number, an
unquoted ``yes`` is true. So `finetune run` and the API server get the same manifest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from finetune_core.sentences import clipped

Path_ = tuple[str | int, ...]

_MOST_NODES = 20_000
_LARGEST = 10**308
"""About the largest number of JSON, which is a 64-bit float."""
_MERGE = "tag:yaml.org,2002:merge"
_TRUE = {"true", "yes", "on", "y"}
_FALSE = {"false", "no", "off", "n"}
_NULL = {"", "~", "null", "Null", "NULL"}
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_OTHER_BASE = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0o?[0-7_]+|0b[01_]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")


class SourceError(Exception):
    """The text is not YAML, or not YAML that can be parsed safely."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass
class Document:
    """One YAML document as plain data, with line numbers."""

    data: Any
    line: int
    lines: dict[Path_, int] = field(default_factory=dict)
    """Line of each key and item, by path from the root; 1 is the first line."""
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Problems of the YAML itself that did not prevent parsing: ``(line, sentence)``."""

    origins: dict[Path_, str] = field(default_factory=dict)
    """Fields that do not come from the text, such as those of the command line, and what they come from."""
    text_data: Any = None
    """The data of the text alone, if there are such fields."""

    def origin_of(self, path: Path_) -> str | None:
        """Where ``path``, or the nearest parent that does not come from the text, comes from; None for the text."""
        return next((self.origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.origins), None)

    def line_of(self, path: Path_) -> int:
        """The line of ``path``, or of its nearest parent in the document."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


def read_documents(text: str) -> list[Document]:
    """The non-empty documents of ``text``.

    Raises:
        SourceError: It is not valid YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        nodes = list(yaml.compose_all(text))
        return [_document(node) for node in nodes if not _is_empty(node)]
    except MarkedYAMLError as error:
        raise _explained(error, text) from error
    except RecursionError as error:
        raise SourceError(1, "is nested too deeply") from error
    except (YAMLError, ValueError, OverflowError, AttributeError, TypeError, KeyError, IndexError) as error:
        # Scanner and composer raise their own exceptions only for the errors that they expect.
        raise SourceError(_line_in(str(error)), f"is not valid YAML: {_first_line(str(error))}") from error


def _is_empty(node: Node | None) -> bool:
    return node is None or (isinstance(node, ScalarNode) and node.value == "" and not node.style)


def _document(node: Node) -> Document:
    document = Document(None, _line(node))
    document.data = _Reader(document).read(node, ())
    return document


class _Reader:
    """Converts YAML nodes to plain data."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._open: set[int] = set()
        """Ids of the nodes that contain the current one."""

    def read(self, node: Node, path: Path_) -> Any:
        self._count += 1
        if self._count > _MOST_NODES:
            raise SourceError(_line(node), f"has more than {_MOST_NODES} values after aliases are expanded")
        self._document.lines.setdefault(path, _line(node))
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            raise SourceError(_line(node), "has an anchor that contains an alias of itself")
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.remove(id(node))

    def _scalar(self, node: ScalarNode, path: Path_) -> Any:
        try:
            value = scalar(node.value, plain=not node.style and not _is_tagged(node))
        except ValueError:  # Python does not convert thousands of digits.
            value = math.inf
        if (isinstance(value, float) and math.isinf(value)) or (isinstance(value, int) and abs(value) > _LARGEST):
            where = ".".join(map(str, path))
            raise SourceError(_line(node), f"{where} is a number that is too large: {clipped(node.value, 40)}")
        return value

    def _item(self, node: Node, path: Path_) -> Any:
        self._document.lines[path] = _line(node)
        return self.read(node, path)

    def _mapping(self, node: MappingNode, path: Path_) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                sources = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                for source in sources:
                    part = self.read(source, path)
                    merged = {**(part if isinstance(part, dict) else {}), **merged}
                continue
            if not isinstance(key_node, ScalarNode):
                self._document.problems.append((_line(key_node), "a key must be a scalar"))
                continue
            key = str(key_node.value)
            where = (*path, key)
            if key in data:
                first = self._document.lines[where]
                self._document.problems.append(
                    (
                        _line(key_node),
                        f"{'.'.join(map(str, where))} is a duplicate key; the first one is in line {first}",
                    )
                )
                continue
            self._document.lines[where] = _line(key_node)
            data[key] = self.read(value_node, where)
        return {**merged, **data}


def scalar(text: str, plain: bool) -> Any:
    """The value of a scalar; ``plain`` means not quoted."""
    if not plain:
        return text
    if text in _NULL:
        return None
    if text.lower() in _TRUE | _FALSE and text in (text.lower(), text.title(), text.upper()):
        return text.lower() in _TRUE
    return _number(text)


def _number(text: str) -> Any:
    """``text`` as a number if it is one."""
    digits = text.replace("_", "")
    if _INT.fullmatch(text):
        return int(digits)
    if _OTHER_BASE.fullmatch(text):
        return _other_base(digits)
    if not _FLOAT.fullmatch(text):
        return text
    value = float(digits)
    # kubectl converts 2.0 and 1e3 to 2 and 1000 in JSON.
    return int(value) if value.is_integer() else value


def _other_base(text: str) -> int:
    digits = text.lower().lstrip("+-")
    value = int(digits, 0) if digits[1] in "xob" else int(digits, 8)
    return -value if text.startswith("-") else value


def _is_tagged(node: ScalarNode) -> bool:
    """Whether the value has a tag such as !!str: only then a value like this is text in YAML 1.2."""
    other = (
        _INT.fullmatch(node.value) or _FLOAT.fullmatch(node.value) or node.value.lower() in ("true", "false", "null")
    )
    return bool(node.tag == "tag:yaml.org,2002:str" and other)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _explained(error: MarkedYAMLError, text: str) -> SourceError:
    mark = error.problem_mark or error.context_mark
    line = int(mark.line) + 1 if mark else 1
    content = text.splitlines()[line - 1] if 0 < line <= len(text.splitlines()) else ""
    problem = _first_line(str(error.problem or error.context or error))
    if "\t" in content[: len(content) - len(content.lstrip())] or "'\\t'" in problem:
        return SourceError(line, "is indented with a tab; YAML requires spaces")
    return SourceError(line, f"is not valid YAML: {problem}")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "it cannot be read"


def _line_in(text: str) -> int:
    match = re.search(r"line (\d+)", text)
    return int(match[1]) if match else 1
