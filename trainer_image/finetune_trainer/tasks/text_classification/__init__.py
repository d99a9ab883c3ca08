"""TextClassification: assigns one label, or any number of labels, to each text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_api import layout
from finetune_api.tables.tasks import ModelFamily
from finetune_api.vocabulary import ClassWeights
from finetune_trainer.json_files import read_json, write_json
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepared import IGNORED_LABEL, DataReport
from finetune_trainer.tasks.base import FormDefaults, ModelClass, Prediction, Presentation, Task
from finetune_trainer.tasks.text_classification.preparation import TextClassificationPreparation, check_head
from finetune_trainer.tasks.text_classification.recognition import recognise
from finetune_trainer.tasks.text_classification.teaching import instruction
from finetune_trainer.tasks.text_classification.weights import balanced

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.base_score import BaseScore
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.train.data import Collator, TrainingDataset


_MOST_NAMED = 50
"""Labels that the plain instruction names."""


def _problem_type(data: DataReport) -> str:
    """What config.json says of the loss: the job's task decides it, not the base model."""
    return "multi_label_classification" if data.multi_label else "single_label_classification"


class TextClassification(FormDefaults):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    uses_chat_template = False
    adapter_task = "SEQ_CLS"

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        return load_base_tokenizer(directory, spec.model.uri)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> TextClassificationPreparation:
        check_head(config, spec.model.uri)
        return TextClassificationPreparation(spec, tokenizer, max_length)

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        from finetune_trainer.tasks.text_classification.training import ClassificationDataset

        return ClassificationDataset(table, data)

    def collator(self, pad_token_id: int, model: Any) -> Collator:
        from finetune_trainer.tasks.text_classification.training import ClassificationCollator

        return ClassificationCollator(pad_token_id)

    def model_class(self, data: DataReport) -> ModelClass:
        from transformers import AutoModelForSequenceClassification

        return ModelClass(
            AutoModelForSequenceClassification,
            {
                "num_labels": len(data.labels),
                "id2label": dict(enumerate(data.labels)),
                "label2id": {label: index for index, label in enumerate(data.labels)},
                "problem_type": _problem_type(data),
            },
            new_head=data.handling.new_head,
        )

    def head_modules(self, model: torch.nn.Module) -> Iterable[str]:
        """All modules outside the backbone, and the pooler of an encoder, which is untrained in sentence embedding
        models that do not use it.
        """
        from finetune_trainer.modelling.loading import outside_backbone

        poolers = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "pooler"]
        return [*poolers, *outside_backbone(model)]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """As in `TaskForm`; with task.multiLabel, labels and logits have the shape (batch, labels), and the loss is the
        mean of the binary cross entropy over all label decisions.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        if labels.dim() == 2:
            decided = labels != IGNORED_LABEL
            targets = labels[decided].float()
            return binary_cross_entropy_with_logits(logits.float()[decided], targets, reduction="sum") / count
        return cross_entropy(logits.float(), labels, ignore_index=IGNORED_LABEL, reduction="sum") / count

    def decisions(self, logits: torch.Tensor, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """With task.multiLabel, whether a text has a label is a decision between its logit and 0."""
        import torch

        found = logits[labels != IGNORED_LABEL]
        return torch.stack([found, torch.zeros_like(found)], dim=-1) if labels.dim() == 2 else found

    def label_weights(self, spec: FineTuneJobSpec, data: DataReport) -> Sequence[float] | None:
        if spec.task.class_weights is ClassWeights.NONE:
            return None
        weights = balanced(data.splits["train"].label_counts)
        return [weights[label] for label in data.labels]

    def weighted_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, total: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        return (
            cross_entropy(logits.float(), labels, weight=weights, ignore_index=IGNORED_LABEL, reduction="sum") / total
        ).float()

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.tasks.text_classification.evaluation import compare

        return compare(inputs)

    def answer_scores(self, inputs: EvaluationInputs, answers: Sequence[str]) -> Mapping[str, float]:
        from finetune_trainer.tasks.text_classification.evaluation import answer_scores

        return answer_scores(inputs, answers)

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return f"{instruction(data.labels if len(data.labels) <= _MOST_NAMED else ['its labels'])}\n\n{{text}}"

    def base_score(self, inputs: EvaluationInputs) -> BaseScore:
        from finetune_trainer.tasks.text_classification.evaluation import base_score

        return base_score(inputs)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.text_classification.prediction import predict

        return predict(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.text_classification.presentation import PRESENTATION

        return PRESENTATION

    def finish_artifact(self, directory: Path, data: DataReport, spec: FineTuneJobSpec) -> None:
        """Write ``labels.json``, the labels in order of their index, and add them to ``config.json`` if it exists."""
        write_json(directory / layout.LABELS, list(data.labels))
        config_path = directory / layout.MODEL_CONFIG
        if config_path.is_file():
            config = read_json(config_path)
            config["id2label"] = {str(index): label for index, label in enumerate(data.labels)}
            config["label2id"] = {label: index for index, label in enumerate(data.labels)}
            config["problem_type"] = _problem_type(data)
            write_json(config_path, config)


# A model with an encoder and a decoder is only asked, by methods that train nothing.
task = Task(dict.fromkeys(ModelFamily, TextClassification()), recognise)
