"""Functions and classes of Python's standard library, labelled by topic: longer texts for benchmarks and tests.

A text consists of a signature and its docstring. Its topic is the topic of its module.

The source files of the running Python are parsed. Nothing is imported or downloaded.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

TOPICS: dict[str, str] = {
    "async": "asyncio",
    "concurrency": "concurrent multiprocessing queue sched subprocess threading",
    "desktop": "curses tkinter turtle turtledemo",
    "editor": "idlelib",
    "files": "bz2 glob gzip io lzma ntpath os pathlib posixpath pyio shutil tarfile tempfile zipfile",
    "introspection": "ast dis enum functools inspect lib2to3 pyclbr pydoc symtable tokenize typing",
    "logging": "logging",
    "mail": "email imaplib mailbox poplib smtplib",
    "numbers": "calendar datetime decimal fractions numbers pydatetime pydecimal random statistics",
    "packaging": "distutils ensurepip importlib pkgutil site sysconfig venv zipimport",
    "testing": "bdb doctest pdb profile trace traceback unittest",
    "web": "cgi html http socketserver urllib webbrowser wsgiref xmlrpc",
    "xml": "xml",
}
MIN_CHARACTERS, MAX_CHARACTERS = 20, 240
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_vendor"}


@dataclass(frozen=True)
class Docstring:
    """One documented function, class or module."""

    module: str
    signature: str
    text: str


def read_docstrings(only: set[str] | None = None) -> Iterator[Docstring]:
    """All docstrings of the standard library, or of the modules in ``only``, in the order of file names."""
    for module, path in source_files():
        if only is not None and module not in only:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates and deliberately broken files
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield Docstring(module, _signature(node), text)


def source_files() -> Iterator[tuple[str, Path]]:
    """The source files of the standard library without its tests, each with its top-level module, in order of name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not _SKIPPED.intersection(parts):
            yield parts[0].removesuffix(".py").lstrip("_"), path


def _signature(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if isinstance(node, ast.Module):
        return ""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    return f"{node.name}({', '.join(argument.arg for argument in node.args.args if argument.arg != 'self')})"


class HasProse(Protocol):
    """An example of some kind that is made from a docstring."""

    @property
    def prose(self) -> str:
        """The docstring."""

    def __lt__(self, other: Any, /) -> bool: ...


Documented = TypeVar("Documented", bound=HasProse)


@dataclass(frozen=True, order=True)
class Example:
    """A labelled text. ``prose`` is the docstring alone, which is used to find duplicates."""

    prose: str
    text: str
    topic: str


def clean(docstrings: Iterable[Docstring]) -> list[Example]:
    """The examples with a topic, without duplicate docstrings.

    A docstring that occurs under several topics ("Return repr(self).") identifies none of them and is left out.
    """
    topic_of = {module: topic for topic, modules in TOPICS.items() for module in modules.split()}
    examples: dict[str, Example] = {}
    topics: dict[str, set[str]] = defaultdict(set)
    for docstring in docstrings:
        topic = topic_of.get(docstring.module)
        prose = " ".join(docstring.text.split())
        key = " ".join(_words(prose))
        if topic and key and len(prose) >= MIN_CHARACTERS:
            text = f"{docstring.signature}: {prose}" if docstring.signature else prose
            examples.setdefault(key, Example(prose, shortened(text, MAX_CHARACTERS), topic))
            topics[key].add(topic)
    return [example for key, example in examples.items() if len(topics[key]) == 1]


def split(examples: list[Documented], train: int, test: int) -> tuple[list[Documented], list[Documented]]:
    """At most ``train`` and ``test`` examples. Near-duplicate docstrings are always in the same split.

    Examples are ordered by a hash of the docstring, so that Python versions with slightly different docstrings get
    nearly the same splits.
    """
    groups: dict[int, list[Documented]] = defaultdict(list)
    for example, group in zip(examples, near_duplicates([example.prose for example in examples]), strict=True):
        groups[group].append(example)
    ordered = sorted(groups.values(), key=lambda group: min(map(_digest, group)))
    for_test: list[Documented] = []
    for_train: list[Documented] = []
    for group in ordered:
        if len(for_test) < test and len(group) <= 3:  # a large group of similar texts is of little use in a test split
            for_test += sorted(group)
        else:
            for_train += group
    return sorted(for_train, key=_digest)[:train], for_test[:test]


def near_duplicates(texts: list[str], share: float = 0.5) -> list[int]:
    """A group number for each text. Texts that share at least ``share`` of their word triples are in one group."""
    triples = [_triples(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    parents = list(range(len(texts)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for index, own in enumerate(triples):
        shared = Counter(other for triple in own for other in holders[triple])
        for other, common in shared.items():
            if common >= share * (len(own) + len(triples[other]) - common):
                parents[root(index)] = root(other)
        for triple in own:
            holders[triple].append(index)
    return [root(index) for index in range(len(texts))]


def shortened(text: str, characters: int) -> str:
    """``text``, cut after the last word that ends within ``characters``."""
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _triples(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


def _digest(example: HasProse) -> str:
    return hashlib.sha256(example.prose.encode()).hexdigest()
