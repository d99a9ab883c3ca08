"""A plain script without finetune-operator: HF Trainer with LoRA, ZeRO-2 and length grouping. Run by torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from plain_common import ZERO_2, Speedometer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main() -> None:
    settings = json.loads(sys.argv[1])
    training = settings["training"]
    set_seed(17)
    prepared = Path(settings["prepared"])
    labels = json.loads((prepared / "data.json").read_text())["labels"]
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    # Use the rows of our prepare stage, and only their tokens, so that both sides do the same work in a step.
    train, validation = (
        Dataset(pa.ipc.open_file(str(prepared / f"{split}.arrow")).read_all())
        .select_columns(["input_ids", "label"])
        .rename_column("label", "labels")
        for split in ("train", "validation")
    )
    speed = Speedometer(settings["warmUpSteps"])
    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> Any:
        speed.count(sum(len(row["input_ids"]) for row in rows))
        return pad(rows)

    per_device = training["maxBatchSizePerDevice"]
    arguments = TrainingArguments(
        output_dir=settings["output"],
        max_steps=training["maxSteps"],
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=training["batchSize"] // per_device // int(os.environ["WORLD_SIZE"]),
        learning_rate=training["learningRate"],
        lr_scheduler_type="cosine",
        train_sampling_strategy="group_by_length",
        use_cpu=True,
        deepspeed=ZERO_2,
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        report_to="none",
    )
    model = AutoModelForSequenceClassification.from_pretrained(settings["model"], num_labels=len(labels))
    adapter = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
    trainer = Trainer(
        model=get_peft_model(model, adapter),
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[speed],
    )
    trainer.train()
    result = speed.result(0.0)
    loss = trainer.evaluate()["eval_loss"]
    if arguments.process_index == 0:
        print(json.dumps(json.loads(result) | {"validationLoss": loss}))


if __name__ == "__main__":
    main()
