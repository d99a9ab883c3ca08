"""Jobs that tune a tiny Llama on preferences between answers of two words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trainer.stages import TinyJob, write_jsonl
from tests.trainer.tiny_models import LABELS, make_texts, save_llama

ROWS = 60
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user> {{ m['content'] }} "
    "{% else %}<bot> {{ m['content'] }} <end> {% endif %}{% endfor %}{% if add_generation_prompt %}<bot> {% endif %}"
)


def preference_rows(loss: str, count: int = ROWS) -> list[dict[str, Any]]:
    """Pairs, or single answers for KTO: the right answer names the class of a key word in the prompt.

    Prompts end with a space, so that their last word and the first one of an answer are two words. Of the topics, which
    are slices, ``right`` has only right answers with KTO.
    """
    rows: list[dict[str, Any]] = []
    for index, (text, label) in enumerate(make_texts(count, 1)):
        prompt = f"{text} what is it "
        right, wrong = f"it is {LABELS[label]}", f"it is {LABELS[(label + 1) % len(LABELS)]} today"
        if loss == "KTO":
            rows.append({"prompt": prompt, "completion": wrong if index % 2 else right, "label": index % 2 == 0})
        else:
            rows.append({"prompt": prompt, "chosen": right, "rejected": wrong})
        rows[-1]["topic"] = "right" if index % 4 == 0 else "any"
    return rows


def preference_job(root: Path, loss: str) -> TinyJob:
    """A job with a tiny Llama and no dropout; not prepared."""
    root.mkdir(parents=True, exist_ok=True)
    tokenizer = save_llama(root / "base", initializer_range=0.1)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "base")
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": {"type": "PreferenceTuning"},
            "dataset": {
                "train": {"uri": write_jsonl(root / "train.jsonl", preference_rows(loss))},
                "test": {"fraction": 0.2},
            },
            "method": {"type": "LoRA", "lora": {"dropout": 0.0}, "preference": {"loss": loss}},
            "training": {
                "maxSteps": 8,
                "batchSize": 6,
                "learningRate": 5e-3,
                "checkpoint": {"everySteps": 4},
                "evaluateEverySteps": 4,
            },
            "evaluation": {"publishWorse": True, "slices": ["topic"]},
            "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
            "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
        },
        name=loss.lower(),
    )
