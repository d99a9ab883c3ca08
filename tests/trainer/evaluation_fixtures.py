"""A job after training, built without running the stages: tiny models, prepared data and trained weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import CodeExecution, Device, Stage, StageConfig, World
from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.manifests import publish_directory
from finetune_trainer.models import fetch_model
from finetune_trainer.prepared import DataReport, ModelHandling, ModelIdentity, SourceFile, SplitReport
from tests.builders import an_identity
from tests.trainer.tiny_models import LABELS, STRONG_INIT, make_texts, save_bert, save_llama


@dataclass(frozen=True)
class Job:
    """A job after the train stage."""

    root: Path
    spec: FineTuneJobSpec
    data: DataReport

    def config(self, stage: Stage, spec: FineTuneJobSpec | None = None) -> StageConfig:
        return StageConfig(
            job=an_identity(namespace="team-a", name="tiny", uid="u1"),
            stage=stage,
            attempt=1,
            spec=spec or self.spec,
            world=World(workers=1, processes_per_worker=1, device=Device.CPU),
            code_execution=CodeExecution(),
        )

    def context(
        self, stage: Stage, spec: FineTuneJobSpec | None = None, reporter: Reporter | None = None
    ) -> StageContext:
        workspace = self.root / f"work-{len(list(self.root.glob('work-*')))}"
        workspace.mkdir()
        return StageContext(config=self.config(stage, spec), workspace=workspace, reporter=reporter or Reporter(None))

    def with_spec(self, **changes: Any) -> FineTuneJobSpec:
        """The spec with top-level fields replaced by camelCase objects."""
        return FineTuneJobSpec.model_validate(
            self.spec.model_dump(mode="json", exclude_none=True) | changes, strict=False
        )


def classification_job(root: Path, full: bool = False, steps: int = 80, pooler: bool = True) -> Job:
    """A tiny BERT, three labels, and an adapter (or a full model) that was trained for some steps."""
    base = root / "base"
    tokenizer = save_bert(base, STRONG_INIT, pooler)
    splits = {
        name: make_texts(count, seed)
        for name, count, seed in (("train", 480, 1), ("validation", 120, 2), ("test", 90, 3))
    }
    tables = {
        name: pa.table(
            {
                "input_ids": pa.array([tokenizer(text)["input_ids"] for text, _ in rows], pa.list_(pa.int32())),
                "label": pa.array([label for _, label in rows], pa.int32()),
                "text": pa.array([text for text, _ in rows]),
                "source": pa.array([f"{name}.jsonl:{line}" for line in range(1, len(rows) + 1)]),
            }
        )
        for name, rows in splits.items()
    }
    job = _finish_data(root, tokenizer, "TextClassification", tables, "Full" if full else "LoRA")
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)}
    )
    if not full:
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=32, target_modules="all-linear"))
    _train_classifier(model, tables["train"], steps)
    _store_trained(job, model)
    return job


def instruction_job(root: Path, full: bool = False, steps: int = 80) -> Job:
    """A tiny Llama that learns to answer with the category of the key word of a sentence."""
    base = root / "base"
    tokenizer = save_llama(base, STRONG_INIT)
    tables = {
        name: _chat_table(tokenizer, name, count, seed)
        for name, count, seed in (("train", 160, 1), ("validation", 20, 2), ("test", 40, 3))
    }
    job = _finish_data(root, tokenizer, "InstructionTuning", tables, "Full" if full else "LoRA")
    model = AutoModelForCausalLM.from_pretrained(base)
    if not full:
        model = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules="all-linear")
        )
    _train_causal(model, tables["train"], steps)
    _store_trained(job, model)
    return job


def _chat_table(tokenizer: PreTrainedTokenizerFast, name: str, count: int, seed: int) -> pa.Table:
    rows = []
    for line, (text, label) in enumerate(make_texts(count, seed), start=1):
        question = {"role": "user", "content": f"what is it {text}"}
        prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True)["input_ids"]
        answer = f"it is {LABELS[label]}"
        completion = tokenizer(f"{answer} <end>")["input_ids"]
        rows.append(
            {
                "input_ids": prompt + completion,
                "labels": [-100] * len(prompt) + completion,
                "prompt_length": len(prompt),
                "reference": answer,
                "prompt": question["content"],
                "source": f"{name}.jsonl:{line}",
            }
        )
    ids = pa.list_(pa.int32())
    types = {"input_ids": ids, "labels": ids, "prompt_length": pa.int32()}
    return pa.table({key: pa.array([row[key] for row in rows], types.get(key, pa.string())) for key in rows[0]})


def _finish_data(root: Path, tokenizer: Any, task: str, tables: dict[str, pa.Table], method: str) -> Job:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": {"type": task},
            "dataset": {"train": {"uri": (root / "train.jsonl").as_uri()}},
            "method": {"type": method},
            "evaluation": {
                "publishWorse": True,
                **({"generation": {"maxNewTokens": 8}} if task == "InstructionTuning" else {}),
            },
            "output": {"uri": (root / "storage").as_uri()},
        },
        strict=False,
    )
    revision = fetch_model(spec.model, root / "model", weights=True).revision
    data = data_report(spec, {name: _split_report(table) for name, table in tables.items()}, revision, tokenizer)
    job = Job(root, spec, data)
    directory = root / "prepared"
    directory.mkdir()
    tokenizer.save_pretrained(directory / "tokenizer")
    for name, table in tables.items():
        _write_split(directory, name, table)
    (directory / "data.json").write_text(data.model_dump_json())
    publish_directory(directory, job.config(Stage.PREPARE).layout.prepared, {"made": "by hand"})
    return job


def data_report(
    spec: FineTuneJobSpec, splits: Mapping[str, SplitReport] = {}, revision: str = "1", tokenizer: Any = None
) -> DataReport:
    """The report about prepared data for ``spec``, with a model that has no limits."""
    classified = spec.task.type is TaskType.TEXT_CLASSIFICATION
    return DataReport(
        task=spec.task.type,
        family=ModelFamily.ENCODER if classified else ModelFamily.CAUSAL,
        labels=LABELS if classified else (),
        max_sequence_length=64,
        padding=tokenizer.pad_token_id if tokenizer else 0,
        end_tokens=(tokenizer.eos_token_id,) if tokenizer and not classified else (),
        splits=dict(splits),
        duplicates=3,
        inputs_digest="sha256:" + "0" * 64,
        contradicting=0,
        leaked=1,
        invalid=0,
        sources=(SourceFile(uri=spec.dataset.train.uri, size=1234, sha256="ab" * 32),),
        model=ModelIdentity(
            uri=spec.model.uri, revision=revision, architecture="Tiny", parameters=9000, max_positions=64, license="mit"
        ),
        handling=ModelHandling(
            model_class="Tiny",
            tested=True,
            packing=False,
            batching=True,
            batched_generation=True,
            attention=None,
            unused_parameters=False,
            new_head=classified,
        ),
    )


def _write_split(directory: Path, split: str, table: pa.Table) -> None:
    with pa.OSFile(str(directory / f"{split}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _split_report(table: pa.Table) -> SplitReport:
    lengths = np.array([len(row) for row in table["input_ids"].to_pylist()])
    quantiles = {f"p{q}": int(np.percentile(lengths, q)) for q in (50, 90, 99)} | {"max": int(lengths.max())}
    labels = table["label"].to_pylist() if "label" in table.column_names else []
    counts = {name: labels.count(index) for index, name in enumerate(LABELS)} if labels else {}
    return SplitReport(
        examples=len(table), tokens=int(lengths.sum()), truncated=0, length_quantiles=quantiles, label_counts=counts
    )


def _padded(rows: Sequence[list[int]], fill: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def _train_classifier(model: Any, table: pa.Table, steps: int) -> None:
    rows, labels = table["input_ids"].to_pylist(), table["label"].to_pylist()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for step in range(steps):
        chosen = np.random.default_rng(step).choice(len(rows), 32, replace=False)
        tokens = _padded([rows[i] for i in chosen], 0)
        loss = model(
            input_ids=tokens, attention_mask=(tokens != 0).long(), labels=torch.tensor([labels[i] for i in chosen])
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _train_causal(model: Any, table: pa.Table, steps: int) -> None:
    rows, labels = table["input_ids"].to_pylist(), table["labels"].to_pylist()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for step in range(steps):
        chosen = np.random.default_rng(step).choice(len(rows), 32, replace=False)
        tokens = _padded([rows[i] for i in chosen], 0)
        loss = model(
            input_ids=tokens, attention_mask=(tokens != 0).long(), labels=_padded([labels[i] for i in chosen], -100)
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _store_trained(job: Job, model: Any) -> None:
    directory = job.root / "trained"
    model.save_pretrained(directory)
    history = {
        "train": [
            {
                "step": s,
                "epoch": s / 30,
                "loss": 1 / s,
                "learningRate": 1e-3 / s,
                "tokens": 300 * s,
                "tokensPerSecond": 900.0,
            }
            for s in range(1, 61)
        ],
        "validation": [{"step": 30, "epoch": 1.0, "loss": 0.4}, {"step": 60, "epoch": 2.0, "loss": 0.3}],
    }
    training = {
        "steps": 60,
        "epochs": 2.0,
        "loss": 0.02,
        "tokens": 18000,
        "tokensPerSecond": 900.0,
        "stoppedEarly": False,
        "trainableParameters": 4000,
        "seed": 17,
        "world": {"workers": 1, "processesPerWorker": 1, "device": "cpu"},
        "versions": {"torch": torch.__version__},
    }
    (directory / "history.json").write_text(json.dumps(history))
    (directory / "training.json").write_text(json.dumps(training))
    publish_directory(directory, job.config(Stage.TRAIN).layout.trained, {"inputsDigest": "sha256:" + "0" * 64})
