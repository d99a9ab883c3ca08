"""LanguageModeling: continued pretraining on documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import Prediction, Presentation, Task
from finetune_trainer.tasks.decoder import DecoderForm
from finetune_trainer.tasks.language_modeling.preparation import LanguageModelingPreparation
from finetune_trainer.tasks.language_modeling.rows import recognise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.train.data import TrainingDataset


class LanguageModeling(DecoderForm):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    uses_chat_template = False

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        tokenizer = load_base_tokenizer(directory, spec.model.uri)
        if tokenizer.eos_token_id is None:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"The tokenizer of {spec.model.uri} has no end-of-sequence token, so no document would end: add "
                "eos_token to tokenizer_config.json",
            )
        return tokenizer

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> LanguageModelingPreparation:
        return LanguageModelingPreparation(spec, tokenizer, max_length)

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        from finetune_trainer.tasks.language_modeling.training import JoinedDocuments

        return JoinedDocuments(table, data.max_sequence_length, len(data.start_tokens))

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.tasks.language_modeling.evaluation import compare

        return compare(inputs)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.language_modeling.prediction import predict

        return predict(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.language_modeling.presentation import PRESENTATION

        return PRESENTATION


task = Task({ModelFamily.CAUSAL: LanguageModeling()}, recognise)
