"""Programming languages of CodeGeneration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.tables.table import table


class CodeLanguage(StrEnum):
    PYTHON = "Python"
    JAVASCRIPT = "JavaScript"
    TYPESCRIPT = "TypeScript"
    JAVA = "Java"
    GO = "Go"
    RUST = "Rust"
    CPP = "Cpp"
    OTHER = "Other"

    @property
    def row(self) -> CodeLanguageRow:
        return CODE_LANGUAGES[self]


@dataclass(frozen=True)
class CodeLanguageRow:
    """One language."""

    title: str
    """Its name in sentences."""
    parses: bool = True
    """Whether there is a parser for it."""
    grammar: str = ""
    """``module:function`` of its tree-sitter grammar; empty if another parser or none is used."""
    runs: bool = False
    """Whether its programs can be run with tests."""


CODE_LANGUAGES = table(
    CodeLanguage,
    {
        # Parsed by the Python that also runs the tests.
        CodeLanguage.PYTHON: CodeLanguageRow("Python", runs=True),
        CodeLanguage.JAVASCRIPT: CodeLanguageRow("JavaScript", grammar="tree_sitter_javascript:language"),
        CodeLanguage.TYPESCRIPT: CodeLanguageRow("TypeScript", grammar="tree_sitter_typescript:language_typescript"),
        CodeLanguage.JAVA: CodeLanguageRow("Java", grammar="tree_sitter_java:language"),
        CodeLanguage.GO: CodeLanguageRow("Go", grammar="tree_sitter_go:language"),
        CodeLanguage.RUST: CodeLanguageRow("Rust", grammar="tree_sitter_rust:language"),
        CodeLanguage.CPP: CodeLanguageRow("C++", grammar="tree_sitter_cpp:language"),
        CodeLanguage.OTHER: CodeLanguageRow("another language", parses=False),
    },
)
