"""The form of a task whose model is asked and not trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.tables.tasks import TaskType
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.pairs.seq2seq import PREFIXED_TYPES
from finetune_trainer.prepared import DataReport
from finetune_trainer.search.asked import Spent
from finetune_trainer.search.prompt import PROMPT_FILE, read_prompt
from finetune_trainer.search.record import SEARCH_FILE
from finetune_trainer.search.templates import until_empty_line, with_prompt
from finetune_trainer.tasks.base import AsksOnce, CardParts, ModelClass, Prediction, Preparation, Presentation, TaskForm

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.search.asked import Asked, OnExamples

PROMPT_TEMPLATE = "prompt_template.jinja"
"""In the artifact: the chat template of the model, which puts the prompt around the text of a user."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


class PromptedForm:
    """Implements `finetune_trainer.tasks.base.TaskForm` for a task on decoders, or on models with an encoder and a
    decoder.

    The rows are those of the form of the task, which the model is asked about as they are. What is not defined here is
    as in that form.
    """

    def __init__(self, task: TaskType, form: TaskForm, *, decoder: bool) -> None:
        self._task = task
        self._form = form
        self._decoder = decoder
        self.uses_chat_template = decoder
        self.adapter_task = "CAUSAL_LM" if decoder else "SEQ_2_SEQ_LM"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._form, name)

    def head_modules(self, model: Any) -> Iterable[str]:
        return ()

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> Any:
        if not self._decoder:
            return self._form.load_tokenizer(directory, spec)
        return load_base_tokenizer(directory, spec.model.uri, template=self._form.shots_template)

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: Any, max_length: int, config: Mapping[str, Any]
    ) -> Preparation:
        if not self._decoder and config.get("model_type") not in PREFIXED_TYPES:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"method {spec.method.type} is not for {spec.model.uri}: a model of type {config.get('model_type')} "
                "reads the text alone, and follows no instruction; use a decoder, or a model of T5's family",
            )
        found = self._form.preparation(spec, tokenizer, max_length, config)
        if isinstance(found, AsksOnce):
            found.ask_once()
        return found

    def model_class(self, data: DataReport) -> ModelClass:
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        return ModelClass(AutoModelForCausalLM if self._decoder else AutoModelForSeq2SeqLM, {})

    @contextmanager
    def asked(self, inputs: EvaluationInputs, on_progress: OnExamples, spent: Spent) -> Iterator[Asked]:
        """The model of the job, which answers prompts.

        Args:
            inputs: Inputs of the evaluation.
            on_progress: Called with 0 as a sign of life.
            spent: What an earlier stage or attempt has spent of the budget of an endpoint.
        """
        if inputs.spec.model.endpoint:
            from finetune_trainer.search.served import served

            form = self.answer_form()
            keeps_space = form is not None and form.keeps_space
            with served(inputs.spec, inputs.answers, on_progress, spent, keeps_space=keeps_space) as model:
                yield model
            return
        from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer, load_saved_tokenizer
        from finetune_trainer.search.local import LocalModel

        prepared = (inputs.prepared / layout.TOKENIZER_DIRECTORY).is_dir()
        tokenizer = load_prepared_tokenizer(inputs.prepared) if prepared else load_saved_tokenizer(inputs.trained)
        yield LocalModel(inputs, self.answer_form(), tokenizer)

    def answer_form(self) -> AnswerForm | None:
        return self._form.answer_form()

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        """See `TaskForm.compare`; here, the plain prompt with the best prompt of the search."""
        from finetune_trainer.search.comparison import compare

        return compare(self, inputs)

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        from finetune_trainer.search.prediction import predict

        return predict(self, inputs, rows)

    def of_prompt(self, tokenizer: Any, data: DataReport) -> dict[str, Any]:
        """What ``prompt.json`` says besides the prompt."""
        return {
            "placeholders": list(self._task.row.placeholders),
            "empty_line_ends": until_empty_line(tokenizer),
            **({"labels": list(data.labels)} if data.labels else {}),
        }

    def presentation(self) -> Presentation:
        from finetune_trainer.search.presentation import baseline_note, report_section

        shown = self._form.presentation()
        return Presentation(
            baseline_note,
            lambda inputs, environment: report_section(inputs, environment) + shown.report_section(inputs, environment),
            lambda inputs, environment: self._card(shown.card(inputs, environment), inputs, environment),
        )

    def _card(self, parts: CardParts, inputs: CardInputs, environment: Environment) -> CardParts:
        from finetune_trainer.search.presentation import usage

        return replace(parts, usage=usage(self._decoder, self.answer_form(), inputs, environment), note=_NOTE)

    def finish_artifact(self, directory: Path, data: DataReport, spec: FineTuneJobSpec) -> None:
        """Add ``prompt_template.jinja``, where the prompt has one place, and no example after it."""
        self._form.finish_artifact(directory, data, spec)
        if spec.model.endpoint:
            # The tokens of the stand-in mean nothing to anybody.
            for name in (*_TOKENIZER_FILES, layout.GENERATION_CONFIG):
                (directory / name).unlink(missing_ok=True)
            return
        if not self._decoder or len(self._task.row.placeholders) != 1:
            return
        tokenizer = load_base_tokenizer(directory, spec.model.uri)
        template = tokenizer.get_chat_template()
        (directory / PROMPT_TEMPLATE).write_text(
            with_prompt(template, read_prompt(directory), self._task.row.placeholders[0]), encoding="utf-8"
        )


_NOTE = (
    f"`{PROMPT_FILE}` has the messages, in which the last one has a place for each text; `{SEARCH_FILE}` has every "
    "combination that was scored."
)
