"""QuestionAnswering with decoders, and with models that have an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.pairs.causal import CausalPairEncoder
from finetune_trainer.pairs.forms import GenerativeCausal, GenerativeSeq2Seq
from finetune_trainer.pairs.seq2seq import Seq2SeqPairEncoder, load_pair_tokenizer, prefix_for, target_mark
from finetune_trainer.tasks.base import Prediction, Presentation
from finetune_trainer.tasks.question_answering.generative.preparation import GenerativePreparation
from finetune_trainer.tasks.question_answering.generative.texts import instruction, marked, message, prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.evaluate.comparison import EvaluationInputs
    from finetune_trainer.prepared import DataReport


def causal_preparation(
    spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> tuple[GenerativePreparation, CausalPairEncoder]:
    """The preparation for decoders, and its encoder."""
    encoder = CausalPairEncoder(spec, tokenizer, max_length, instruction(spec))
    return GenerativePreparation(spec, encoder, message), encoder


def seq2seq_preparation(
    spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Mapping[str, Any]
) -> tuple[GenerativePreparation, Seq2SeqPairEncoder]:
    """The preparation for models with an encoder and a decoder, and its encoder."""
    mark = target_mark(spec, tokenizer, None)
    encoder = Seq2SeqPairEncoder(spec, tokenizer, max_length, prefix_for(spec, config, prefix(spec)) + mark, "answer")
    return GenerativePreparation(spec, encoder, marked), encoder


class CausalQuestionAnswering(GenerativeCausal):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> GenerativePreparation:
        return causal_preparation(spec, tokenizer, max_length)[0]

    def answer_form(self) -> AnswerForm:
        from finetune_trainer.evaluate.answer_scoring import AnswerForm
        from finetune_trainer.evaluate.prompts import CausalPrompts
        from finetune_trainer.tasks.question_answering.generative.scoring import QuestionScoring

        return AnswerForm(CausalPrompts, QuestionScoring)

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return f"{instruction(spec)}\n\n{message('{question}', '{context}')}"

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.question_answering.generative.prediction import predict_causal

        return predict_causal(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.question_answering.generative.presentation import CAUSAL

        return CAUSAL


class Seq2SeqQuestionAnswering(GenerativeSeq2Seq):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerBase:
        return load_pair_tokenizer(directory, spec, None)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Mapping[str, Any]
    ) -> GenerativePreparation:
        return seq2seq_preparation(spec, tokenizer, max_length, config)[0]

    def answer_form(self) -> AnswerForm:
        from finetune_trainer.evaluate.answer_scoring import AnswerForm
        from finetune_trainer.evaluate.prompts import Seq2SeqPrompts
        from finetune_trainer.tasks.question_answering.generative.scoring import QuestionScoring

        return AnswerForm(Seq2SeqPrompts, QuestionScoring)

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return data.prefix + marked("{question}", "{context}")

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.question_answering.generative.prediction import predict_seq2seq

        return predict_seq2seq(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.question_answering.generative.presentation import SEQ2SEQ

        return SEQ2SEQ
