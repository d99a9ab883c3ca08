"""Parses what ``/progress`` of a worker returns. The worker is not trusted."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_api.stage import Progress

MAX_PROGRESS_BYTES = 65536
"""A longer response is not parsed."""


def parse_progress(content: bytes) -> Progress | None:
    """The Progress in a response; None if it is too long, or anything else."""
    if len(content) >= MAX_PROGRESS_BYTES:
        return None
    try:
        return Progress.model_validate_json(content)
    except (ValidationError, RecursionError):
        return None
