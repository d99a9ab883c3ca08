"""A plain script without finetune-operator: TRL's SFTTrainer with padding, LoRA and ZeRO-2. Run by torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from peft import LoraConfig
from plain_common import ZERO_2, Speedometer
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer


def main() -> None:
    settings = json.loads(sys.argv[1])
    training = settings["training"]
    set_seed(17)
    prepared = Path(settings["prepared"])
    tokenizer = AutoTokenizer.from_pretrained(str(prepared / "tokenizer"))
    train, validation = (_rows(prepared / f"{split}.arrow") for split in ("train", "validation"))
    speed = Speedometer(settings["warmUpSteps"])
    per_device = settings["conversationsPerDevice"]
    on_gpu = settings["device"] == "gpu"
    world = int(os.environ["WORLD_SIZE"])
    arguments = SFTConfig(
        output_dir=settings["output"],
        num_train_epochs=1,
        max_steps=training.get("maxSteps", -1),
        per_device_train_batch_size=per_device,
        per_device_eval_batch_size=per_device,
        gradient_accumulation_steps=settings["conversations"] // per_device // world,
        learning_rate=training["learningRate"],
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.01,
        max_length=training["maxSequenceLength"],
        packing=False,
        bf16=on_gpu,
        activation_checkpointing=training.get("activationCheckpointing", False),
        use_cpu=not on_gpu,
        deepspeed=ZERO_2,
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            settings["model"], dtype=torch.bfloat16 if on_gpu else torch.float32
        ),
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"
        ),
        callbacks=[speed],
    )
    collate = trainer.data_collator

    def counting(rows: list[dict[str, Any]]) -> Any:
        speed.count(sum(len(row["input_ids"]) for row in rows))
        return collate(rows)

    trainer.data_collator = counting
    trainer.train()
    result = speed.result(0.0)
    loss = trainer.evaluate()["eval_loss"]
    if arguments.process_index == 0:
        print(json.dumps(json.loads(result) | {"validationLoss": loss}))


def _rows(path: Path) -> Dataset:
    """Token ids, and TRL's assistant mask of the tokens that contribute to the loss."""
    table = pa.ipc.open_file(str(path)).read_all()
    labels = table["labels"].to_pylist()
    return Dataset.from_dict(
        {
            "input_ids": table["input_ids"].to_pylist(),
            "assistant_masks": [[int(label != -100) for label in row] for row in labels],
        }
    )


if __name__ == "__main__":
    main()
