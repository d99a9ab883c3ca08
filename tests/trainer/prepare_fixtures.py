"""Jobs for whole runs of the prepare stage: real files, a real store, real tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune_api.failures import StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Device, JobIdentity, PrepareResult, Stage, StageConfig, World
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.prepared import DataReport, read_report
from finetune_trainer.stages.prepare import run

MARKED_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_TEMPLATE = MARKED_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
THINKING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""As of models that think first: only the newest answer has a (here empty) thought."""


def a_chat_model(
    directory: Path, template: str | None, *, eos: str | None = "<|im_end|>", positions: int = 256
) -> Path:
    """A model directory with a byte-level tokenizer, made here, and weights of 64 parameters."""
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the answer of the question is the assistant user system"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    if eos is not None:
        tokenizer.eos_token = eos
    tokenizer.chat_template = template
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(directory))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": positions}
    (directory / "config.json").write_text(json.dumps(config))
    save_file({"w": np.zeros((8, 8), np.float32)}, str(directory / "model.safetensors"))
    return directory


def json_lines(path: Path, rows: Iterable[object]) -> str:
    """Write ``rows`` as JSON lines; the file's address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path.as_uri()


def a_context(root: Path, model: str, task: dict[str, Any], dataset: dict[str, Any], **spec: Any) -> StageContext:
    """A prepare stage that stores to ``root``/store and works in a fresh directory below ``root``."""
    document = {
        "model": {"uri": model},
        "task": task,
        "dataset": dataset,
        "output": {"uri": (root / "store").as_uri()},
        **spec,
    }
    workspace = root / f"work{len(list(root.glob('work*')))}"
    workspace.mkdir(parents=True)
    config = StageConfig(
        job=JobIdentity(namespace="team", name="job", uid="uid", revision=1, spec_digest="sha256:" + "0" * 64),
        stage=Stage.PREPARE,
        attempt=1,
        spec=FineTuneJobSpec.model_validate_json(json.dumps(document)),
        world=World(workers=1, processes_per_worker=1, device=Device.CPU),
        workspace=str(workspace),
    )
    return StageContext(config=config, workspace=workspace, reporter=Reporter(None))


def stored(context: StageContext) -> Path:
    """Where the prepared data lie in the store."""
    return Path(context.config.layout.prepared.removeprefix("file://"))


def prepared(context: StageContext) -> tuple[PrepareResult, DataReport]:
    """Run the stage; its result and the report that it stored."""
    result = run(context)
    return result, read_report(stored(context))


def refused(context: StageContext) -> StageFailure:
    """Run the stage, which must fail; the failure. Nothing may look complete afterwards."""
    try:
        run(context)
    except StageFailure as failure:
        assert not (stored(context) / "manifest.json").exists()
        return failure
    raise AssertionError("the stage did not fail")
