"""Small models and data for each form of a task, and the job that learns them by heart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from finetune_api.tables.methods import MethodType
from finetune_api.tables.tasks import ModelFamily, TaskType
from tests.combinations.cells import LABEL_LISTS, Cell, Form
from tests.trainer.code_models import CHAT_TEMPLATE, byte_level_tokenizer, save_llama_with
from tests.trainer.pair_models import save_t5_with
from tests.trainer.stages import TinyJob, write_jsonl

_NOUNS = ("apple", "cobalt", "drizzle", "pear", "nickel", "frost", "plum", "copper")
_KINDS = ("fruit", "metal", "weather", "fruit", "metal", "weather", "fruit", "metal")


def cell_job(root: Path, cell: Cell) -> TinyJob:
    """A job that learns a few rows by heart: all splits are the same file; not prepared."""
    root.mkdir(parents=True, exist_ok=True)
    rows = _rows(cell.form)
    _save_model(root / "base", cell.form.family, [str(value) for row in rows for value in row.values()])
    source = {"uri": write_jsonl(root / "rows.jsonl", rows), "minimumExamples": 1}
    data = {"uri": source["uri"]}
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri(), "quantization": cell.quantization},
            "task": {"type": cell.form.task, **_task(cell.form)},
            "dataset": {"train": data, "validation": data, "test": source, "cleaning": {"deduplicate": "None"}},
            "method": {"type": cell.method, **_method(cell.form)},
            "training": {
                "maxSteps": 12,
                "evaluateEverySteps": 4,
                "batchSize": 8,
                "maxSequenceLength": 96 if cell.form.family is ModelFamily.ENCODER else 192,
                # The default ones are for more steps.
                "learningRate": 3e-3 if cell.method is MethodType.FULL else 1e-2,
            },
            "evaluation": {"publishWorse": True, **_generation(cell.form)},
            "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
            "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
        },
        name="cell",
    )


def _save_model(directory: Path, family: ModelFamily, texts: list[str]) -> None:
    tokenizer = byte_level_tokenizer(texts, CHAT_TEMPLATE if family is ModelFamily.CAUSAL else None)
    match family:
        case ModelFamily.CAUSAL:
            save_llama_with(directory, tokenizer)
        case ModelFamily.SEQ2SEQ:
            save_t5_with(directory, tokenizer, width=64)
        case ModelFamily.ENCODER:
            _save_encoder(directory, tokenizer)


def _save_encoder(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"cls_token": "<user>", "sep_token": "<bot>"})
    first, second = (("<user>", tokenizer.cls_token_id), ("<bot>", tokenizer.sep_token_id))
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(second, first)
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _generation(form: Form) -> dict[str, Any]:
    return {"generation": {"maxNewTokens": 8}} if form.family in form.task.row.generates else {}


def _task(form: Form) -> dict[str, Any]:
    if form.variant == LABEL_LISTS:
        return {"multiLabel": True}
    return {"sourceLanguage": "en", "targetLanguage": "de"} if form.task is TaskType.TRANSLATION else {}


def _method(form: Form) -> dict[str, Any]:
    return {"preference": {"loss": form.variant}} if form.task is TaskType.PREFERENCE_TUNING else {}


def _rows(form: Form) -> list[dict[str, Any]]:
    """Eight rows."""
    row = _several_labels if form.variant == LABEL_LISTS else _desirable if form.variant == "KTO" else _ROWS[form.task]
    return [row(noun, kind) for noun, kind in zip(_NOUNS, _KINDS, strict=True)]


def _several_labels(noun: str, kind: str) -> dict[str, Any]:
    return {"text": f"the {noun} today", "label": [kind, *(["short"] if len(noun) < 6 else [])]}


def _question(noun: str, _: str) -> dict[str, Any]:
    context = f"we saw the {noun} today"
    return {"question": "what", "context": context, "answers": {"text": [noun], "answer_start": [context.index(noun)]}}


def _pair(noun: str, kind: str) -> dict[str, Any]:
    return {"prompt": f"what is the {noun} ", "completion": f"a {kind}"}


def _desirable(noun: str, kind: str) -> dict[str, Any]:
    return _pair(noun, kind) | {"label": len(noun) < 6}


_ROWS: dict[TaskType, Callable[[str, str], dict[str, Any]]] = {
    TaskType.TEXT_CLASSIFICATION: lambda noun, kind: {"text": f"the {noun} today", "label": kind},
    TaskType.QUESTION_ANSWERING: _question,
    TaskType.SUMMARIZATION: lambda noun, kind: {"text": f"we saw the {noun}, a {kind}", "summary": f"a {kind}"},
    TaskType.TRANSLATION: lambda noun, _: {"source": f"the {noun}", "target": f"das {noun[::-1]}"},
    TaskType.LANGUAGE_MODELING: lambda noun, kind: {"text": f"the {noun} is a {kind}"},
    TaskType.INSTRUCTION_TUNING: _pair,
    TaskType.CODE_GENERATION: _pair,
    TaskType.PREFERENCE_TUNING: lambda noun, kind: {
        "prompt": f"what is {noun}",
        "chosen": f"a {kind}",
        "rejected": noun,
    },
}
