"""What a search on this machine needs: the longest prompts of a batch run through the model without weights."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig

from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.endpoint.messages import Question, estimated_tokens
from finetune_trainer.evaluate.generation import LIMITS
from finetune_trainer.evaluate.token_scores import limits_of
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.live_memory import LiveMemory
from finetune_trainer.modelling.loading import attention_settings, set_padding
from finetune_trainer.modelling.precision import dtype_of
from finetune_trainer.models import read_config
from finetune_trainer.prepared import DataReport
from finetune_trainer.search.form import PromptedForm
from finetune_trainer.search.prompt import Prompt, Rows
from finetune_trainer.search.rendering import CausalRenderer, Renderer, Seq2SeqRenderer
from finetune_trainer.search.templates import until_empty_line
from finetune_trainer.tasks import form_for
from finetune_trainer.train.shapes import place

_ROWS = 2000
"""Training rows that are looked at."""
_SAMPLE = 16
"""Rows whose prompts are counted."""


@dataclass(frozen=True)
class SearchCosts:
    """What a search costs."""

    parameters: int
    peak_bytes: int | None
    """Of the tensors of a batch, besides the weights; None if the model cannot run without weights, or is elsewhere."""
    rows: int
    """Of the batch with the longest prompts."""
    combinations: int
    """At most."""
    tokens: int
    """Read and written by the search, about."""
    measured_tokens: int
    """Read and written by the evaluation, about."""
    chat_template: bool | None
    """Whether the model has a chat template; None for a model with an encoder."""


def search_costs(
    spec: FineTuneJobSpec, report: DataReport, model: Path, table: pa.Table, *, precision: Precision, device: str
) -> SearchCosts:
    """What the search of ``spec`` costs.

    Args:
        spec: The spec, with the method.
        report: The report about the prepared data.
        model: Directory with config.json and tokenizer of the model.
        table: The training split.
        precision: The resolved precision.
        device: ``cpu`` or ``cuda``.

    Raises:
        StageFailure: BadConfiguration when the search is not for the model or the data.
    """
    settings = spec.method.settings
    assert isinstance(settings, PromptSearchSpec)
    form = cast("PromptedForm", form_for(spec, report.family))
    tokenizer = form.load_tokenizer(model, spec)
    form.preparation(spec, tokenizer, report.max_sequence_length, read_config(model, spec.model.uri))
    method_of(spec.method.type).check_data(spec, len(table))
    texts = Rows.of_table(table.slice(0, _ROWS), spec.task.type.row.placeholders, report.labels)
    plain = form.plain_instruction(spec, report)
    candidates = settings.candidates or (plain,)  # Nothing is known of proposed ones.
    ranks, sampled = form.answer_form() is None, texts.answers[:_SAMPLE]
    if spec.model.endpoint:  # It writes one label, and is not asked for the likelihood of all.
        asked = _Lengths(None, texts, None)
        written = float(np.mean([estimated_tokens(text) for text in sampled]))
        return SearchCosts(0, None, 1, settings.trials, *_tokens(settings, report, asked, plain, written), None)
    seq2seq = report.family is ModelFamily.SEQ2SEQ
    renderer: Renderer = Seq2SeqRenderer(tokenizer, spec) if seq2seq else CausalRenderer(tokenizer, report)
    lengths = _Lengths(renderer, texts, spec.training.max_sequence_length or report.positions)
    answers = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in report.labels]
    new = max(answers) if ranks else spec.evaluation.generation.max_new_tokens
    written = sum(answers) if ranks else round(float(np.mean([len(tokenizer(text)["input_ids"]) for text in sampled])))
    tokens, measured = _tokens(settings, report, lengths, plain, written)
    auto_class = form.model_class(report).auto_class
    batch = _Batch(auto_class, model, report, dtype_of(precision), ranks=ranks, seq2seq=seq2seq)
    longest = lengths.longest(max([plain, *candidates], key=len), max(settings.shots))
    parameters, rows, peak = batch.run(longest, new, device)
    template = None if seq2seq else not until_empty_line(tokenizer)
    return SearchCosts(parameters, peak, rows, settings.trials, tokens, measured, template)


def _tokens(
    settings: PromptSearchSpec, report: DataReport, lengths: _Lengths, plain: str, written: float
) -> tuple[int, int]:
    """Tokens read and written by the search, without proposals, and by the evaluation.

    Args:
        settings: The search.
        report: The report about the prepared data.
        lengths: The lengths of prompts.
        plain: The default instruction.
        written: Tokens of an answer.
    """
    candidates = settings.candidates or (plain,)
    examples = min(settings.examples, report.splits["validation"].examples)
    of_trial, of_plain = lengths.mean(candidates, settings.shots) + written, lengths.mean([plain], [0]) + written
    # The plain prompt and the best instruction alone are scored too.
    searched = examples * (settings.trials * of_trial + of_plain + lengths.mean(candidates, [0]) + written)
    return round(searched), round(report.splits["test"].examples * (of_plain + of_trial))


@dataclass(frozen=True)
class _Lengths:
    """How long prompts are, in tokens."""

    renderer: Renderer | None
    """None for an endpoint, whose tokens are counted as `finetune_trainer.endpoint` does if it does not count them."""
    texts: Rows
    limit: int | None
    """Longest prompt that the model reads."""

    def longest(self, instruction: str, shots: int) -> int:
        """Of a prompt with the longest rows of those that are looked at."""
        order = sorted(range(len(self.texts)), key=lambda row: -sum(map(len, self.texts.inputs[row].values())))
        return max(self._of(instruction, order[:shots], order[:1]))

    def mean(self, instructions: Sequence[str], sizes: Sequence[int]) -> float:
        """Of prompts with the first rows as examples."""
        rows = range(len(self.texts))
        found = [self._of(one, rows[:size], rows[:_SAMPLE]) for one in instructions for size in sizes]
        return float(np.mean(found))

    def _of(self, instruction: str, shots: Sequence[int], asked: Sequence[int]) -> list[int]:
        prompt = Prompt(instruction, tuple(map(self.texts.example, shots)))
        inputs = [self.texts.inputs[row] for row in asked]
        if self.renderer is None:
            return [Question(prompt.messages(one), {}).estimated_tokens for one in inputs]
        table = self.renderer.table(prompt, inputs, [self.texts.answers[row] for row in asked])
        found: list[int] = self.renderer.lengths(table).tolist()
        return found if self.limit is None else [min(one, self.limit) for one in found]


@dataclass(frozen=True)
class _Batch:
    """The longest batch of a search, whose tensors have no storage."""

    auto_class: Any
    directory: Path
    report: DataReport
    dtype: torch.dtype
    ranks: bool
    """Whether labels are ranked; otherwise answers are generated."""
    seq2seq: bool

    def run(self, prompt: int, new: int, device: str) -> tuple[int, int, int | None]:
        """Parameters of the model, rows of the batch, and the most bytes of its tensors at one time.

        Args:
            prompt: Tokens of the longest prompt.
            new: Tokens behind it.
            device: ``cpu`` or ``cuda``.
        """
        with torch.device("meta"):
            model = self.auto_class.from_config(
                AutoConfig.from_pretrained(self.directory), dtype=self.dtype, **attention_settings(self.report.handling)
            )
        set_padding(model, self.report.padding)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        most = limits_of(model, self.report, device) if self.ranks else LIMITS[device]
        rows = max(1, min(most.examples, most.tokens // (prompt + new)))
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        place(model, mode, None)
        model.eval()
        try:
            with mode, LiveMemory() as live, torch.no_grad():
                model(**self._inputs(model, rows, prompt, new))
        except Exception:  # Of any kind: some models read values of tensors, which a tensor without storage has not.
            return parameters, rows, None
        return parameters, rows, live.peak

    def _inputs(self, model: Any, rows: int, prompt: int, new: int) -> dict[str, Any]:
        length = prompt if self.seq2seq else prompt + new
        found: dict[str, Any] = {
            "input_ids": torch.zeros((rows, length), dtype=torch.int64),
            "attention_mask": torch.ones((rows, length), dtype=torch.int64),
            "use_cache": not self.ranks,
        }
        if self.seq2seq:
            found["decoder_input_ids"] = torch.zeros((rows, new), dtype=torch.int64)
        elif not self.ranks and "logits_to_keep" in inspect.signature(model.forward).parameters:
            found["logits_to_keep"] = 1
        return found
