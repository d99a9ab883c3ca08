"""QuestionAnswering: answers a question about a text.

An encoder answers with a span of the text (``preparation``, ``windows``, ``offsets``, ``training``, ``spans``,
``probe``, ``evaluation``), other models with a text of their own (``generative``). What does not depend on the model is
in ``rows``, ``kinds``, ``positions`` and ``scoring``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepared import IGNORED_LABEL, DataReport
from finetune_trainer.tasks.base import FormDefaults, ModelClass, Prediction, Presentation, Recognised, Task
from finetune_trainer.tasks.question_answering.generative.forms import (
    CausalQuestionAnswering,
    Seq2SeqQuestionAnswering,
)
from finetune_trainer.tasks.question_answering.preparation import ExtractivePreparation
from finetune_trainer.tasks.question_answering.rows import QuestionRows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.base_score import BaseScore
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.train.data import Collator, TrainingDataset

_IMPOSSIBLE = -1e4
"""Logit of a token that cannot be chosen."""


class ExtractiveQuestionAnswering(FormDefaults):
    """QuestionAnswering with an encoder; implements `finetune_trainer.tasks.base.TaskForm`."""

    uses_chat_template = False
    adapter_task = "QUESTION_ANS"

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        return load_base_tokenizer(directory, spec.model.uri)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> ExtractivePreparation:
        return ExtractivePreparation(spec, tokenizer, max_length)

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        from finetune_trainer.tasks.question_answering.training import SpanDataset

        return SpanDataset(table)

    def collator(self, pad_token_id: int, model: Any) -> Collator:
        from finetune_trainer.tasks.question_answering.training import SpanCollator

        return SpanCollator(pad_token_id, model)

    def model_class(self, data: DataReport) -> ModelClass:
        from transformers import AutoModelForQuestionAnswering

        return ModelClass(AutoModelForQuestionAnswering, {})

    def head_modules(self, model: torch.nn.Module) -> Iterable[str]:
        from finetune_trainer.modelling.loading import outside_backbone

        return outside_backbone(model)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Both labels of a window count, so that the loss of a step is the mean of that of starts and ends."""
        from torch.nn.functional import cross_entropy

        flat = logits.float().flatten(0, 1)
        return cross_entropy(flat, labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum") / count

    def decisions(self, logits: torch.Tensor, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The decision for one of the tokens of a window; those that pad it are none."""
        padding = (inputs["attention_mask"] == 0).unsqueeze(1)
        return logits.masked_fill(padding, _IMPOSSIBLE)[labels != IGNORED_LABEL]

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.tasks.question_answering.evaluation import compare

        return compare(inputs)

    def answer_scores(self, inputs: EvaluationInputs, answers: Sequence[str]) -> Mapping[str, float]:
        from finetune_trainer.evaluate.teacher_answers import generated_scores
        from finetune_trainer.tasks.question_answering.generative.scoring import QuestionScoring

        return generated_scores(inputs, QuestionScoring, [answer.strip() for answer in answers])

    def base_score(self, inputs: EvaluationInputs) -> BaseScore:
        from finetune_trainer.tasks.question_answering.evaluation import base_score

        return base_score(inputs)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.question_answering.prediction import predict

        return predict(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.question_answering.presentation import PRESENTATION

        return PRESENTATION

    def finish_artifact(self, directory: Path, data: DataReport, spec: FineTuneJobSpec) -> None:
        """Nothing to add: ``evaluation.json`` has the threshold of no answer."""


def recognise(names: Sequence[str], _: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    if not set(QuestionRows.fields) <= set(names):
        return None
    return Recognised({}, "", "", certain=True, reads=(*QuestionRows.fields, *QuestionRows.optional))


task = Task(
    {
        ModelFamily.ENCODER: ExtractiveQuestionAnswering(),
        ModelFamily.CAUSAL: CausalQuestionAnswering(),
        ModelFamily.SEQ2SEQ: Seq2SeqQuestionAnswering(),
    },
    recognise,
)
