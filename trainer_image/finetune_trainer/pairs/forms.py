"""The forms of a text-to-text task: on decoders, and on models with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_api import layout
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.json_files import read_json, read_json_if_present, write_json
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.pairs.causal import PLAIN_TEMPLATE, CausalPairEncoder
from finetune_trainer.pairs.languages import check_languages, codes_of
from finetune_trainer.pairs.preparation import PairsPreparation
from finetune_trainer.pairs.seq2seq import (
    Seq2SeqPairEncoder,
    generation_settings,
    load_pair_tokenizer,
    prefix_for,
    target_mark,
)
from finetune_trainer.pairs.task import PairTask
from finetune_trainer.prepared import IGNORED_LABEL, DataReport
from finetune_trainer.tasks.base import FormDefaults, ModelClass, Prediction, Presentation, Recognise, Task
from finetune_trainer.tasks.instruction_tuning import InstructionTuning

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.train.data import Collator, TrainingDataset

_REPLACED_SETTINGS = (
    "length_penalty",
    "max_length",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "repetition_penalty",
    "early_stopping",
    "forced_eos_token_id",
)
"""Settings of a base model that the evaluation does not use, so that the artifact must not use them either."""


def pair_forms(task: PairTask, recognise: Recognise) -> Task:
    """The forms of ``task``."""
    return Task({ModelFamily.CAUSAL: CausalPairs(task), ModelFamily.SEQ2SEQ: Seq2SeqPairs(task)}, recognise)


def causal_encoder(
    task: PairTask, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> CausalPairEncoder:
    """The encoder of ``task`` for decoders.

    Raises:
        StageFailure: BadConfiguration when a language of the job is none.
    """
    if languages := task.languages(spec):
        check_languages(languages)
    return CausalPairEncoder(spec, tokenizer, max_length, task.instruction(spec))


def seq2seq_encoder(
    task: PairTask,
    spec: FineTuneJobSpec,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    config: Mapping[str, Any],
) -> Seq2SeqPairEncoder:
    """The encoder of ``task`` for models with an encoder and a decoder, of which ``config`` is the config.json.

    Raises:
        StageFailure: BadConfiguration when a language of the job is none, or the job has a setting that the model does
            not read.
    """
    if (languages := task.languages(spec)) and not codes_of(tokenizer):
        check_languages(languages)
    prefix = prefix_for(spec, config, task.prefix(spec)) + target_mark(spec, tokenizer, task.languages(spec))
    return Seq2SeqPairEncoder(spec, tokenizer, max_length, prefix, target=task.titles.target.lower())


class GenerativeCausal(InstructionTuning):
    """What the forms of all text-to-text tasks on decoders have in common: a conversation of a source and a target."""

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        return load_base_tokenizer(directory, spec.model.uri, template=PLAIN_TEMPLATE)


class CausalPairs(GenerativeCausal):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    def __init__(self, task: PairTask) -> None:
        self._task = task

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> PairsPreparation:
        return PairsPreparation(self._task, spec, causal_encoder(self._task, spec, tokenizer, max_length))

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return f"{self._task.instruction(spec)}\n\n{{{self._task.fields[0]}}}"

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.pairs.prediction import predict_causal

        return predict_causal(self._task, inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.pairs.presentation import causal_presentation

        return causal_presentation(self._task)


class GenerativeSeq2Seq(FormDefaults):
    """What the forms of all text-to-text tasks on models with an encoder and a decoder have in common."""

    uses_chat_template = False
    adapter_task = "SEQ_2_SEQ_LM"

    def generation(
        self, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], generation: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        return generation_settings(tokenizer, config, generation)

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        from finetune_trainer.train.seq2seq import Seq2SeqDataset

        return Seq2SeqDataset(table)

    def collator(self, pad_token_id: int, model: Any) -> Collator:
        from finetune_trainer.modelling.shift import shift_of
        from finetune_trainer.train.seq2seq import Seq2SeqCollator

        return Seq2SeqCollator(pad_token_id, shift_of(model))

    def model_class(self, data: DataReport) -> ModelClass:
        from transformers import AutoModelForSeq2SeqLM

        return ModelClass(AutoModelForSeq2SeqLM, {})

    def head_modules(self, model: torch.nn.Module) -> Iterable[str]:
        return ()

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        from finetune_trainer.train.seq2seq import loss

        return loss(logits, labels, count)

    def decisions(self, logits: torch.Tensor, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return logits[labels != IGNORED_LABEL]

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.evaluate.answer_comparison import compare

        return compare(inputs, self.answer_form())

    def answer_form(self) -> AnswerForm:
        from finetune_trainer.evaluate.answer_scoring import AnswerForm, SingleReference
        from finetune_trainer.evaluate.prompts import Seq2SeqPrompts

        return AnswerForm(Seq2SeqPrompts, SingleReference)

    def answer_scores(self, inputs: EvaluationInputs, answers: Sequence[str]) -> Mapping[str, float]:
        from finetune_trainer.evaluate.teacher_answers import generated_scores

        return generated_scores(inputs, self.answer_form().scoring, [answer.strip() for answer in answers])

    def finish_artifact(self, directory: Path, data: DataReport, spec: FineTuneJobSpec) -> None:
        """Write ``generation_config.json``, so that plain ``generate`` gives the answers of the evaluation."""
        generation = read_json_if_present(directory / layout.GENERATION_CONFIG)
        kept = {
            key: value for key, value in generation.items() if key not in (*_REPLACED_SETTINGS, "_from_model_config")
        }
        settings = {
            **kept,
            **data.generation,
            "eos_token_id": list(data.end_tokens) if len(data.end_tokens) > 1 else data.end_tokens[0],
            "pad_token_id": data.padding,
            "max_new_tokens": spec.evaluation.generation.max_new_tokens,
            "num_beams": spec.evaluation.generation.beams,
            "do_sample": False,
        }
        write_json(directory / layout.GENERATION_CONFIG, settings)
        config_path = directory / layout.MODEL_CONFIG
        if config_path.is_file():
            # transformers reads the settings of older models from here.
            config = {key: value for key, value in read_json(config_path).items() if key not in _REPLACED_SETTINGS}
            write_json(config_path, config)


class Seq2SeqPairs(GenerativeSeq2Seq):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    def __init__(self, task: PairTask) -> None:
        self._task = task

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerBase:
        return load_pair_tokenizer(directory, spec, self._task.languages(spec))

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Mapping[str, Any]
    ) -> PairsPreparation:
        return PairsPreparation(self._task, spec, seq2seq_encoder(self._task, spec, tokenizer, max_length, config))

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return f"{data.prefix}{{{self._task.fields[0]}}}"

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.pairs.prediction import predict_seq2seq

        return predict_seq2seq(self._task, inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.pairs.presentation import seq2seq_presentation

        return seq2seq_presentation(self._task)
