"""A plain script without finetune-operator for models with an encoder and a decoder: transformers' Seq2SeqTrainer.

It takes the tokens of a prepare stage and the order of its rows, so that each step has the same rows; padding, decoder
inputs, loss, optimizer and schedule are those of transformers. The last line of its output has the loss of each step.

    python bench/plain_seq2seq.py PREPARED MODEL --steps 40 --batch 16 --rate 1e-3
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from plain_common import batches_of_job
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(options.model)
    table = pa.ipc.open_file(str(options.prepared / "train.arrow")).read_all().select(["input_ids", "labels"])
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in table.to_pylist()]
    lengths = np.array([len(row["input_ids"]) + len(row["labels"]) for row in rows])
    order = batches_of_job(lengths, options.batch, options.seed, options.steps)

    class InOrder(Seq2SeqTrainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(rows, batch_sampler=order, collate_fn=self.data_collator)

    with tempfile.TemporaryDirectory() as output:
        trainer = InOrder(
            model=model,
            args=Seq2SeqTrainingArguments(
                output_dir=output,
                max_steps=options.steps,
                per_device_train_batch_size=options.batch,
                learning_rate=options.rate,
                lr_scheduler_type="cosine",
                warmup_steps=round(0.03 * options.steps),
                use_cpu=True,
                save_strategy="no",
                logging_steps=1,
                disable_tqdm=True,
                report_to="none",
                seed=options.seed,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
            processing_class=tokenizer,
        )
        trainer.train()
    print(json.dumps([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))


if __name__ == "__main__":
    main()
