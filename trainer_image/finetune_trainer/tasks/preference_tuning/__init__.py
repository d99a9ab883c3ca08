"""PreferenceTuning: answers that people prefer become likelier than others (DPO, KTO, ORPO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import ModelClass, Prediction, Preparation, Presentation, Task
from finetune_trainer.tasks.decoder import DecoderForm
from finetune_trainer.tasks.instruction_tuning import CHAT_TEMPLATE
from finetune_trainer.tasks.preference_tuning.preparation import PreferencePreparation
from finetune_trainer.tasks.preference_tuning.rows import recognise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.base_score import BaseScore
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.train.data import Collator, TrainingDataset
    from finetune_trainer.train.objective import Objective

_BEGIN = "{bos}"
TEMPLATE = (
    _BEGIN + "{{%- if messages[0]['role'] == 'user' and (messages | length == 1 or messages | length == 2 and "
    "messages[1]['role'] == 'assistant') -%}}"
    "{{{{ messages[0]['content'] }}}}"
    "{{%- if messages | length == 2 -%}}"
    "{{% generation %}}{{{{ messages[1]['content'] + eos_token }}}}{{% endgeneration %}}"
    "{{%- endif -%}}"
    "{{%- else -%}}" + CHAT_TEMPLATE.removeprefix(_BEGIN) + "{{%- endif -%}}"
)
"""The chat template of a model without one: an answer directly after its prompt; a longer conversation with its
roles.
"""


class PreferenceTuning(DecoderForm):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    uses_chat_template = True

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        return load_base_tokenizer(directory, spec.model.uri, template=TEMPLATE)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> Preparation:
        return PreferencePreparation(spec, tokenizer, max_length)

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        from finetune_trainer.tasks.preference_tuning.data import PreferenceDataset

        return PreferenceDataset(table, data.max_sequence_length, spec.training.seed)

    def collator(self, pad_token_id: int, model: Any) -> Collator:
        from finetune_trainer.tasks.preference_tuning.data import PreferenceCollator

        return PreferenceCollator(pad_token_id)

    def model_class(self, data: DataReport) -> ModelClass:
        from transformers import AutoModelForCausalLM

        # With dropout, the model would differ from its reference before the first step.
        return ModelClass(AutoModelForCausalLM, {}, drops_out=False)

    def objective(
        self, spec: FineTuneJobSpec, data: DataReport, train: TrainingDataset, validation: TrainingDataset
    ) -> Objective:
        from finetune_trainer.tasks.preference_tuning.data import PreferenceDataset
        from finetune_trainer.tasks.preference_tuning.objective import PreferenceObjective

        assert spec.preference is not None
        assert isinstance(train, PreferenceDataset)
        assert isinstance(validation, PreferenceDataset)
        return PreferenceObjective(spec.preference, train, validation, data.handling.batching)

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.tasks.preference_tuning.evaluation import compare

        return compare(inputs)

    def base_score(self, inputs: EvaluationInputs) -> BaseScore:
        from finetune_trainer.tasks.preference_tuning.base_score import base_score

        return base_score(inputs)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.preference_tuning.prediction import predict

        return predict(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.preference_tuning.presentation import PRESENTATION

        return PRESENTATION


task = Task({ModelFamily.CAUSAL: PreferenceTuning()}, recognise)
