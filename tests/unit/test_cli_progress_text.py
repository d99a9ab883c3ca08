"""What the terminal says about the progress of a stage."""

from __future__ import annotations

from finetune_api.stage import Stage
from finetune_cli.view import progress_text
from tests.builders import a_progress


def test_a_training_counts_its_steps() -> None:
    progress = a_progress(loss=0.51239, tokens_per_second=1234.4, eta_seconds=200)
    assert progress_text(progress) == "40/120 steps (33 %), loss 0.5124, 1,234 tokens/s, 3m20s left"


def test_another_stage_says_what_it_counts() -> None:
    progress = a_progress(Stage.EVALUATE, activity="evaluating the baseline", done=250, total=1000, unit="examples")
    assert progress_text(progress) == "evaluating the baseline, 250/1,000 examples (25 %)"
    assert progress_text(a_progress(Stage.EVALUATE, activity="writing the report", done=None, total=None)) == (
        "writing the report"
    )
