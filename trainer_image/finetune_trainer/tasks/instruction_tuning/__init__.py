"""InstructionTuning: supervised fine-tuning on the assistant messages of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import Prediction, Preparation, Presentation, Task
from finetune_trainer.tasks.decoder import DecoderForm
from finetune_trainer.tasks.instruction_tuning.preparation import InstructionTuningPreparation
from finetune_trainer.tasks.instruction_tuning.rows import recognise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.train.data import TrainingDataset

CHAT_TEMPLATE = (
    "{bos}{{%- for message in messages -%}}"
    "{{%- if message['role'] == 'assistant' -%}}"
    "{{{{ '### assistant:\\n' }}}}{{% generation %}}{{{{ message['content'] + eos_token }}}}{{% endgeneration %}}"
    "{{{{ '\\n\\n' }}}}"
    "{{%- else -%}}"
    "{{{{ '### ' + message['role'] + ':\\n' + message['content'] + '\\n\\n' }}}}"
    "{{%- endif -%}}"
    "{{%- endfor -%}}"
    "{{%- if add_generation_prompt -%}}{{{{ '### assistant:\\n' }}}}{{%- endif -%}}"
)


class InstructionTuning(DecoderForm):
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    uses_chat_template = True

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        return load_base_tokenizer(directory, spec.model.uri, template=CHAT_TEMPLATE)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> Preparation:
        return InstructionTuningPreparation(spec, tokenizer, max_length)

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        from finetune_trainer.train.causal import CausalDataset

        return CausalDataset(table, data.max_sequence_length if data.handling.packing else None)

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.evaluate.answer_comparison import compare

        return compare(inputs, self.answer_form())

    def answer_form(self) -> AnswerForm:
        from finetune_trainer.evaluate.answer_scoring import AnswerForm, SingleReference
        from finetune_trainer.evaluate.prompts import CausalPrompts

        return AnswerForm(CausalPrompts, SingleReference)

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return "{prompt}"

    def answer_scores(self, inputs: EvaluationInputs, answers: Sequence[str]) -> Mapping[str, float]:
        from finetune_trainer.evaluate.teacher_answers import generated_scores

        return generated_scores(inputs, self.answer_form().scoring, [answer.strip() for answer in answers])

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.instruction_tuning.prediction import predict

        return predict(inputs, rows)

    def presentation(self) -> Presentation:
        from finetune_trainer.tasks.instruction_tuning.presentation import PRESENTATION

        return PRESENTATION


task = Task({ModelFamily.CAUSAL: InstructionTuning()}, recognise)
