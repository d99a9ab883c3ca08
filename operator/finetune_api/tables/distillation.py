"""Ways to learn from a teacher."""

from __future__ import annotations

from enum import StrEnum


class DistillationMode(StrEnum):
    """What the student learns of its teacher."""

    LOGITS = "Logits"
    RESPONSES = "Responses"
