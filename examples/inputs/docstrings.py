"""Docstrings of Python's standard library, labelled by topic: the quickstart's data.

Everything is read from the source of the Python that runs this; nothing is imported and nothing is downloaded.
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

TOPICS: dict[str, str] = {
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors subprocess threading signal asyncore",
    "desktop": "curses idlelib tkinter turtle turtledemo",
    "diagnostics": "bdb cProfile cgitb cmd code codeop doctest faulthandler logging pdb profile pstats timeit trace "
    "traceback tracemalloc unittest warnings",
    "files": "bz2 filecmp fileinput fnmatch genericpath glob gzip io linecache lzma mmap ntpath nturl2path os pathlib "
    "posixpath pyio shutil stat tarfile tempfile zipapp zipfile compression",
    "language": "abc ast bisect collections collections_abc contextlib copy copyreg ctypes dataclasses dis enum "
    "functools graphlib heapq inspect keyword lib2to3 opcode operator pickle pickletools pyclbr pydoc reprlib "
    "rlcompleter shelve symtable tabnanny token tokenize types typing weakref annotationlib",
    "mail": "email imaplib mailbox mailcap mimetypes nntplib poplib smtpd smtplib uu quopri",
    "network": "cgi ftplib http ipaddress netrc secrets socket socketserver ssl telnetlib urllib uuid webbrowser "
    "wsgiref xmlrpc",
    "numbers": "calendar colorsys datetime decimal fractions numbers pydatetime pydecimal random statistics strptime "
    "zoneinfo pylong",
    "packaging": "bootsubprocess compileall distutils ensurepip imp importlib modulefinder osx_support pkgutil "
    "platform py_compile runpy site sysconfig venv zipimport",
    "text": "argparse base64 codecs configparser csv difflib encodings getopt gettext html json locale markupbase "
    "optparse plistlib pprint re shlex sre_compile sre_parse string stringprep textwrap tomllib xdrlib xml",
}
MIN_CHARACTERS, MAX_CHARACTERS = 20, 320
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_vendor"}


@dataclass(frozen=True)
class Docstring:
    """One documented function, class or module."""

    module: str
    signature: str
    text: str


def read_docstrings(only: set[str] | None = None) -> Iterator[Docstring]:
    """Every docstring of the standard library, or of some of its modules, in the order of the files' names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        module = parts[0].removesuffix(".py").lstrip("_")
        if _SKIPPED.intersection(parts) or (only is not None and module not in only):
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


def _signature(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if isinstance(node, ast.Module):
        return ""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    return f"{node.name}({', '.join(argument.arg for argument in node.args.args if argument.arg != 'self')})"


def clean(docstrings: Iterable[Docstring]) -> list[tuple[str, str]]:
    """(text, topic) of the documented things that have a topic, each text once.

    Texts that are found under several topics ("Return repr(self).") say nothing about either and are left out.
    """
    topic_of = {module: topic for topic, modules in TOPICS.items() for module in modules.split()}
    texts: dict[str, str] = {}
    topics: dict[str, set[str]] = defaultdict(set)
    for docstring in docstrings:
        topic = topic_of.get(docstring.module)
        text = _shortened(" ".join(docstring.text.split()))
        if topic and len(text) >= MIN_CHARACTERS:
            key = " ".join(_words(text))
            texts.setdefault(key, text)
            topics[key].add(topic)
    return [(text, min(topics[key])) for key, text in texts.items() if key and len(topics[key]) == 1]


def split(rows: list[tuple[str, str]], train: int, test: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """At most ``train`` and ``test`` rows, never two near-identical texts on different sides.

    Rows are ordered by a hash of their text, so a later Python with a few more docstrings keeps nearly the same split.
    """
    groups: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for row, group in zip(rows, near_duplicates([text for text, _ in rows]), strict=True):
        groups[group].append(row)
    ordered = sorted(groups.values(), key=lambda group: min(_digest(text) for text, _ in group))
    test_rows: list[tuple[str, str]] = []
    train_rows: list[tuple[str, str]] = []
    for group in ordered:
        if len(test_rows) < test and len(group) <= 3:  # a large family of like texts teaches, but tests little
            test_rows += sorted(group)
        else:
            train_rows += group
    train_rows.sort(key=lambda row: _digest(row[0]))
    return train_rows[:train], test_rows[:test]


def near_duplicates(texts: list[str], share: float = 0.5) -> list[int]:
    """A group number for each text; texts that share at least ``share`` of their word triples are in one group."""
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


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _triples(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


def _shortened(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return text[:MAX_CHARACTERS].rsplit(" ", 1)[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
