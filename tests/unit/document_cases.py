"""Specs of LanguageModeling for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

METRICS_OF_DOCUMENTS = "evaluation.metrics of LanguageModeling are perplexity, bits_per_byte, token_accuracy"
GATES_OF_DOCUMENTS = "gates of LanguageModeling can be on perplexity, bits_per_byte, token_accuracy"
COLUMNS_OF_DOCUMENTS = "dataset.columns of LanguageModeling are text"
FULL_ROWS = "training.packing has no meaning for LanguageModeling: rows are full without it; remove it"
DOCUMENTS_OF_TEXT = "documents is only valid for format Text: in other formats, each row is a document"
TEXT_WITHOUT_COLUMNS = "format Text has no columns; remove columns.text"

DOCUMENT_CASES: tuple[tuple[Any, ...], ...] = (
    ("shortest documents", {}),
    ("documents of text", {"dataset.documents": "Line", "dataset.format": "Text"}),
    ("documents by name", {"dataset.documents": "BlankLine"}),
    ("text column of documents", {"dataset.columns.text": "t", "dataset.format": "JSONL"}),
    ("text column of text", {"dataset.columns.text": "t", "dataset.format": "Text"}, TEXT_WITHOUT_COLUMNS),
    ("documents of JSONL", {"dataset.documents": "File", "dataset.format": "JSONL"}, DOCUMENTS_OF_TEXT),
    ("label of documents", {"dataset.columns.label": "t"}, COLUMNS_OF_DOCUMENTS),
    ("packed documents", {"training.packing": True}, FULL_ROWS),
    ("documents without packing", {"training.packing": False}, FULL_ROWS),
    ("metric of documents", {"evaluation.metrics": ["rouge_l"]}, METRICS_OF_DOCUMENTS),
    ("gate of documents", {"evaluation.gates": [{"metric": "loss", "maximum": 1}]}, GATES_OF_DOCUMENTS),
    ("a gate on perplexity", {"evaluation.gates": [{"metric": "perplexity", "maximum": 20}]}),
)
