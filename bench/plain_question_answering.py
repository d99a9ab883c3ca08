"""A plain script without finetune-operator for QuestionAnswering: transformers' own loss, windows and n-best decoding.

For models of BERT's architecture. It follows run_qa.py of transformers' examples, on the rows of a prepare stage, of
which it uses the texts only, and in the order of a job, so that each step has the same rows. The threshold of no answer
is chosen on validation, as the official script of SQuAD 2.0 does. Run as

    python bench/plain_question_answering.py PREPARED MODEL --steps 150 --batch 16 --rate 1e-3 --length 128

and compare the last line with ``evaluation.json`` of a job with the same settings, one process, ``method: Full`` and
``output: {keep: {preparedData: true}}``, as `bench.parity` does. With ``--steps 0`` and the artifact as MODEL, it only
answers, with the weights of the job.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import string
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from plain_common import batches_of_job
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

_N_BEST, _LONGEST = 20, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForQuestionAnswering.from_pretrained(options.model)
    rows = {split: _rows(options.prepared / f"{split}.arrow") for split in ("train", "validation", "test")}
    stride = min(options.overlap, options.length // 4)
    windows = {split: _windows(tokenizer, of_split, options.length, stride) for split, of_split in rows.items()}
    lengths = np.array([len(ids) for ids in windows["train"]["input_ids"]])
    order = batches_of_job(lengths, options.batch, options.seed, options.steps)

    class InOrder(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(self.train_dataset, batch_sampler=order, collate_fn=self.data_collator)

    with tempfile.TemporaryDirectory() as output:
        trainer = InOrder(
            model=model,
            args=TrainingArguments(
                output_dir=output,
                max_steps=options.steps or 1,
                per_device_train_batch_size=options.batch,
                per_device_eval_batch_size=64,
                learning_rate=options.rate,
                lr_scheduler_type="cosine",
                warmup_steps=round(0.03 * options.steps),
                logging_steps=max(1, options.steps // 10),
                use_cpu=True,
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
                seed=options.seed,
            ),
            train_dataset=_model_inputs(windows["train"]),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        if options.steps:
            trainer.train()
        found = {}
        for split in ("validation", "test"):
            logits = trainer.predict(_model_inputs(windows[split])).predictions
            found[split] = _answers(rows[split], windows[split], *logits[:2])
    threshold = _threshold(rows["validation"], found["validation"])
    texts = ["" if null > threshold else text for text, null in found["test"]]
    scores = np.array([_scores(text, row["answers"]) for text, row in zip(texts, rows["test"], strict=True)])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(
        json.dumps(
            {
                "losses": losses,
                "squad_f1": scores[:, 1].mean(),
                "exact_match": scores[:, 0].mean(),
                "threshold": threshold,
            }
        )
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    table = pa.ipc.open_file(str(path)).read_all().select(["question", "context", "answers", "answer_spans"])
    return [row | {"answers": json.loads(row["answers"])} for row in table.to_pylist()]


def _windows(tokenizer: Any, rows: list[dict[str, Any]], length: int, stride: int) -> dict[str, Any]:
    encoded = tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    starts, ends = [], []
    for window, question in enumerate(encoded["overflow_to_sample_mapping"]):
        start = end = 0
        if span := rows[question]["answer_spans"][:2]:
            ids = encoded.sequence_ids(window)
            places = [index for index, text in enumerate(ids) if text == 1]
            offsets = encoded["offset_mapping"][window]
            if offsets[places[0]][0] <= span[0] and span[1] <= offsets[places[-1]][1]:
                start = max(index for index in places if offsets[index][0] <= span[0])
                end = min(index for index in places if offsets[index][1] >= span[1])
        starts.append(start)
        ends.append(end)
    context = [
        [offset if text == 1 else None for offset, text in zip(offsets, encoded.sequence_ids(window), strict=True)]
        for window, offsets in enumerate(encoded["offset_mapping"])
    ]
    return {**encoded, "start_positions": starts, "end_positions": ends, "context": context}


def _model_inputs(windows: dict[str, Any]) -> Any:
    names = ["input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions"]
    return [dict(zip(names, values, strict=True)) for values in zip(*(windows[name] for name in names), strict=True)]


def _answers(rows: list[dict[str, Any]], windows: dict[str, Any], starts: Any, ends: Any) -> list[tuple[str, float]]:
    """The best span of each question, and by how much the score of no answer exceeds its score."""
    best = [(float("-inf"), "")] * len(rows)
    nulls = [float("inf")] * len(rows)
    for window, question in enumerate(windows["overflow_to_sample_mapping"]):
        offsets, start, end = windows["context"][window], starts[window], ends[window]
        nulls[question] = min(nulls[question], float(start[0] + end[0]))
        for first in np.argsort(start)[: -_N_BEST - 1 : -1]:
            for last in np.argsort(end)[: -_N_BEST - 1 : -1]:
                if max(first, last) >= len(offsets) or offsets[first] is None or offsets[last] is None:
                    continue
                score = float(start[first] + end[last])
                if first <= last < first + _LONGEST and score > best[question][0]:
                    best[question] = (score, rows[question]["context"][offsets[first][0] : offsets[last][1]])
    return [(text, null - score) for (score, text), null in zip(best, nulls, strict=True)]


def _threshold(rows: list[dict[str, Any]], found: list[tuple[str, float]]) -> float:
    def total(threshold: float) -> float:
        texts = ["" if null > threshold else text for text, null in found]
        return sum(_scores(text, row["answers"])[1] for text, row in zip(texts, rows, strict=True))

    if all(row["answers"] for row in rows):
        return float("inf")
    return max([null for _, null in found], key=total)


def _scores(text: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of SQuAD 2.0's evaluation script."""
    golds = [answer for answer in answers if _normal(answer)] or [""]
    return max(float(_normal(text) == _normal(gold)) for gold in golds), max(_f1(text, gold) for gold in golds)


def _f1(text: str, gold: str) -> float:
    own, expected = _normal(text).split(), _normal(gold).split()
    if not own or not expected:
        return float(own == expected)
    same = sum((collections.Counter(own) & collections.Counter(expected)).values())
    return 2 * same / (len(own) + len(expected))


def _normal(text: str) -> str:
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


if __name__ == "__main__":
    main()
