"""Tiny models that have learned a few summaries by heart."""

from __future__ import annotations

from pathlib import Path

from tests.trainer.pair_models import save_t5
from tests.trainer.stages import TinyJob, write_jsonl
from tests.trainer.tiny_models import make_texts, save_llama
from tests.usual_stages import STAGES

SOURCES = [text for text, _ in make_texts(24, 2)]


def by_heart(root: Path, model: str, method: str) -> TinyJob:
    """Learn a few summaries, each the last three words of its text, and run all stages."""
    rows = [{"text": f"{text} today there", "summary": f"{text.split()[-1]} today there"} for text in SOURCES]
    if model == "t5":
        save_t5(root / "base", [text for row in rows for text in row.values()] + ["summarize: "])
    else:
        save_llama(root / "base")
        (root / "base" / "chat_template.jinja").unlink()  # It gets that of text-to-text tasks.
    uri = write_jsonl(root / "rows.jsonl", rows)
    spec = {
        "model": {"uri": (root / "base").as_uri()},
        "task": {"type": "Summarization"},
        "dataset": {
            "train": {"uri": uri},
            "validation": {"uri": uri},
            "test": {"uri": uri},
            "cleaning": {"deduplicate": "None"},
        },
        "method": {"type": method},
        "training": {
            "maxSteps": 80,
            "evaluateEverySteps": 40,
            "batchSize": 8,
            "learningRate": 1e-2,
            "maxSequenceLength": 48,
        },
        "evaluation": {"generation": {"maxNewTokens": 6}, "publishWorse": True},
        "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
        "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
    }
    job = TinyJob(root, spec, f"{model}-{method.lower()}")
    for stage in STAGES:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job
