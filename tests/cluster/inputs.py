"""Models and data for the jobs of the tests."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.services import BUCKETS
from tests.cluster.tenant import INPUTS, OUTPUT
from tests.trainer.teacher_models import save_classifier
from tests.trainer.tiny_models import LABELS, make_texts, save_bert, save_llama


def upload_inputs() -> None:
    """Upload tiny models of both kinds, and data for them, to the bucket ``inputs``."""
    bucket = BUCKETS / INPUTS
    if bucket.exists():
        return
    bucket.mkdir()
    (BUCKETS / OUTPUT).mkdir(exist_ok=True)
    save_bert(bucket / "bert")
    _without_dropout(bucket / "bert" / "config.json")
    save_llama(bucket / "llama")
    save_classifier(bucket / "teacher", num_hidden_layers=4)
    rows = [{"text": text, "label": LABELS[label]} for text, label in make_texts(480, 1)]
    chats = [{"prompt": f"what is it {row['text']}", "completion": f"it is {row['label']}"} for row in rows]
    for name, lines in (("sentences", rows), ("questions", chats)):
        (bucket / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _without_dropout(config: Path) -> None:
    """Disable dropout: each rank has its own random numbers, so curves of different world sizes would differ."""
    document = json.loads(config.read_text())
    document |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(document))
