"""Jobs for the prepare stage with real files, storage and tokenizers."""

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
from finetune_api.stage import CodeExecution, Device, PrepareResult, Stage, StageConfig, World
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.prepared import DataReport, read_report
from finetune_trainer.stages.prepare import run
from tests.builders import an_identity

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
"""A template as of reasoning models: only the last answer has a thinking block, which is empty here."""


def a_chat_model(
    directory: Path, template: str | dict[str, str] | None, *, eos: str | None = "<|im_end|>", positions: int = 256
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
    """Write ``rows`` as JSON Lines and return the address of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path.as_uri()


def a_context(
    root: Path, model: str | dict[str, Any], task: dict[str, Any], dataset: dict[str, Any], **spec: Any
) -> StageContext:
    """The context of a prepare stage that stores to ``root``/store, with a new workspace in ``root``."""
    document = {
        "model": {"uri": model} if isinstance(model, str) else model,
        "task": task,
        "dataset": {"test": {"fraction": 0.1, "minimumExamples": 1}, **dataset},
        "output": {"uri": (root / "store").as_uri()},
        **spec,
    }
    workspace = root / f"work{len(list(root.glob('work*')))}"
    workspace.mkdir(parents=True)
    config = StageConfig(
        job=an_identity(namespace="team", name="job", uid="uid"),
        stage=Stage.PREPARE,
        attempt=1,
        spec=FineTuneJobSpec.model_validate_json(json.dumps(document)),
        world=World(workers=1, processes_per_worker=1, device=Device.CPU),
        code_execution=CodeExecution(),
        workspace=str(workspace),
    )
    return StageContext(config=config, workspace=workspace, reporter=Reporter(None))


def stored(context: StageContext) -> Path:
    """The directory of the prepared data in storage."""
    return Path(context.config.layout.prepared.removeprefix("file://"))


def prepared(context: StageContext) -> tuple[PrepareResult, DataReport]:
    """Run the stage, and return its result and the stored report."""
    result = run(context)
    return result, read_report(stored(context))


def refused(context: StageContext) -> StageFailure:
    """Run the stage, check that it fails and leaves no complete data, and return the failure."""
    try:
        run(context)
    except StageFailure as failure:
        assert not (stored(context) / "manifest.json").exists()
        return failure
    raise AssertionError("the stage did not fail")
