"""The stages of a job without a teacher that generates answers."""

from __future__ import annotations

from finetune_api.job import FineTuneJobStatus

STAGES = FineTuneJobStatus().planned
