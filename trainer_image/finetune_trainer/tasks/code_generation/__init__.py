"""CodeGeneration: learns to write what follows the beginning of a program, or what a text asks for.

White space is content: no part of this package strips a prompt, a completion or an answer. ``rows`` reads the data,
``recognition`` finds it, ``python_tests`` and ``checking`` check its tests, ``causal``, ``seq2seq`` and ``white_space``
tokenise, ``stopping`` (with ``parsing`` and ``python_lines``) says which part of an output is the answer, and
``scoring`` measures it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.pairs.forms import GenerativeCausal, GenerativeSeq2Seq
from finetune_trainer.pairs.seq2seq import load_pair_tokenizer
from finetune_trainer.tasks.base import Prediction, Presentation, Task
from finetune_trainer.tasks.code_generation.causal import CausalCodeEncoder
from finetune_trainer.tasks.code_generation.preparation import CodePreparation
from finetune_trainer.tasks.code_generation.recognition import recognise
from finetune_trainer.tasks.code_generation.seq2seq import Seq2SeqCodeEncoder
from finetune_trainer.tasks.code_generation.texts import PLAIN_TEMPLATE, SHOTS_TEMPLATE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.prepared import DataReport


class _Measured(ABC):
    """What the evaluation and the report say about models of both families."""

    @abstractmethod
    def answer_form(self) -> AnswerForm:
        """See `finetune_trainer.tasks.base.TaskForm`; here, answers are always generated."""

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.evaluate.answer_comparison import compare

        return compare(inputs, self.answer_form())

    def answer_scores(self, inputs: EvaluationInputs, answers: Sequence[str]) -> Mapping[str, float]:
        from finetune_trainer.evaluate.teacher_answers import generated_scores

        return generated_scores(inputs, lambda table, _: self.answer_form().scoring_for(inputs, table), answers)

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return data.prefix + "{prompt}"


class CausalCode(_Measured, GenerativeCausal):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    shots_template = SHOTS_TEMPLATE

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        return load_base_tokenizer(directory, spec.model.uri, template=PLAIN_TEMPLATE)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> CodePreparation:
        return CodePreparation(spec, CausalCodeEncoder(spec, tokenizer, max_length))

    def answer_form(self) -> AnswerForm:
        from finetune_trainer.evaluate.prompts import CausalPrompts
        from finetune_trainer.tasks.code_generation.causal import decode_code
        from finetune_trainer.tasks.code_generation.running import CodeForm
        from finetune_trainer.tasks.code_generation.scoring import CodeScoring

        return CodeForm(CausalPrompts, CodeScoring, decode_code, keeps_space=True)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.code_generation.prediction import predict_causal

        return predict_causal(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.code_generation.presentation import CAUSAL

        return CAUSAL


class Seq2SeqCode(_Measured, GenerativeSeq2Seq):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerBase:
        return load_pair_tokenizer(directory, spec, None)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Mapping[str, Any]
    ) -> CodePreparation:
        return CodePreparation(spec, Seq2SeqCodeEncoder(spec, tokenizer, max_length, config))

    def answer_form(self) -> AnswerForm:
        from finetune_trainer.evaluate.prompts import Seq2SeqPrompts
        from finetune_trainer.tasks.code_generation.running import CodeForm
        from finetune_trainer.tasks.code_generation.scoring import CodeScoring

        return CodeForm(Seq2SeqPrompts, CodeScoring, keeps_space=True)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.code_generation.prediction import predict_seq2seq

        return predict_seq2seq(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.code_generation.presentation import SEQ2SEQ

        return SEQ2SEQ


task = Task({ModelFamily.CAUSAL: CausalCode(), ModelFamily.SEQ2SEQ: Seq2SeqCode()}, recognise)
