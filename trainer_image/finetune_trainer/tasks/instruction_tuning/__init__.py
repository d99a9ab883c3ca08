"""InstructionTuning: supervised fine-tuning on the assistant messages of conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_api import layout
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.json_files import read_json, read_json_if_present, write_json
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import CardParts, ModelClass, Prediction, Preparation, Task
from finetune_trainer.tasks.instruction_tuning.preparation import InstructionTuningPreparation
from finetune_trainer.tasks.instruction_tuning.rows import recognise

if TYPE_CHECKING:
    import torch
    from jinja2 import Environment
    from transformers import PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs
    from finetune_trainer.train.data import Collator, TrainingDataset
    from finetune_trainer.train.objective import Objective

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


class InstructionTuning:
    """Implements `finetune_trainer.tasks.base.TaskForm`."""

    uses_chat_template = True
    adapter_task = "CAUSAL_LM"

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> PreTrainedTokenizerFast:
        return load_base_tokenizer(directory, spec.model.uri, template=CHAT_TEMPLATE)

    def generation(
        self, tokenizer: PreTrainedTokenizerFast, config: Mapping[str, Any], generation: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        return {}

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int, config: Mapping[str, Any]
    ) -> Preparation:
        return InstructionTuningPreparation(spec, tokenizer, max_length)

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        from finetune_trainer.train.causal import CausalDataset

        return CausalDataset(table, data.max_sequence_length if data.handling.packing else None)

    def collator(self, pad_token_id: int, model: Any) -> Collator:
        from finetune_trainer.train.causal import CausalCollator

        return CausalCollator(pad_token_id)

    def model_class(self, data: DataReport) -> ModelClass:
        from transformers import AutoModelForCausalLM

        return ModelClass(AutoModelForCausalLM, {})

    def head_modules(self, model: torch.nn.Module) -> Iterable[str]:
        return ()

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        from transformers.loss.loss_utils import ForCausalLMLoss

        return ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=count)

    def objective(
        self, spec: FineTuneJobSpec, data: DataReport, train: TrainingDataset, validation: TrainingDataset
    ) -> Objective | None:
        return None

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        from finetune_trainer.evaluate.answer_comparison import compare

        return compare(inputs, self.answer_form())

    def answer_form(self) -> AnswerForm:
        from finetune_trainer.evaluate.answer_scoring import AnswerForm, SingleReference
        from finetune_trainer.evaluate.prompts import CausalPrompts

        return AnswerForm(CausalPrompts, SingleReference)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.tasks.instruction_tuning.prediction import predict

        return predict(inputs, rows)

    def baseline_note(self, details: Mapping[str, Any]) -> str:
        from finetune_trainer.tasks.instruction_tuning.presentation import baseline_note

        return baseline_note(details)

    def report_section(self, inputs: ReportInputs, environment: Environment) -> str:
        from finetune_trainer.tasks.instruction_tuning.presentation import report_section

        return report_section(inputs, environment)

    def card(self, inputs: CardInputs, environment: Environment) -> CardParts:
        from finetune_trainer.tasks.instruction_tuning.presentation import card

        return card(inputs, environment)

    def finish_artifact(self, directory: Path, data: DataReport, spec: FineTuneJobSpec) -> None:
        """Write the tokens that end an answer and pad a batch to the configuration files of transformers.

        ``generation_config.json`` is also written for an adapter; programs that load only the base model can use it.
        """
        ends = data.end_tokens[0] if len(data.end_tokens) == 1 else list(data.end_tokens)
        tokens = {"eos_token_id": ends, "pad_token_id": data.padding}
        generation = read_json_if_present(directory / layout.GENERATION_CONFIG)
        # transformers would otherwise derive these settings from config.json again.
        generation.pop("_from_model_config", None)
        write_json(directory / layout.GENERATION_CONFIG, generation | tokens)
        config_path = directory / layout.MODEL_CONFIG
        if config_path.is_file():
            write_json(config_path, read_json(config_path) | tokens)


task = Task({ModelFamily.CAUSAL: InstructionTuning()}, recognise)
