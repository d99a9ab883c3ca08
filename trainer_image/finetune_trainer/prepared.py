"""The prepared data, which prepare writes and train and evaluate read.

It is a directory with
- ``data.json``: the report about the data (`DataReport`),
- ``train.arrow``, ``validation.arrow``, ``test.arrow``: Arrow IPC files, uncompressed so that they can be
  memory-mapped,
- ``tokenizer/``: the tokenizer, including the chat template,
- ``learned-rows.npz`` and ``test-rows.npy``: hashes of the rows that the weights are trained on, and of those of the
  test split (`finetune_trainer.row_hashes`),
- ``adapter/``: the adapter that training continues from, if there is one,
- ``teacher.jsonl``: the answers of the teacher to the prompts of the test split, if it learns from answers.

Each row is one example, with the columns:
- TextClassification: ``input_ids`` list<int32>, ``label`` int32 (index into DataReport.labels; with task.multiLabel
  ``labels`` list<int32> instead), ``text`` string, ``source`` string (``file:line``).
- InstructionTuning: ``input_ids`` list<int32>, ``labels`` list<int32> of the same length (-100 for tokens
  outside the answers of the assistant, which have no loss; with task.loss All, only the test split has
  such tokens), ``prompt_length`` int32 (tokens before the last answer,
  including the generation prompt), ``reference`` string (the last answer), ``prompt`` string (the conversation before
  it, in readable form), ``source`` string.
- QuestionAnswering with an encoder: ``input_ids`` and ``token_type_ids`` list<int32> (the tokens of all windows of the
  context, each with the question); for each window, all list<int32>: ``window_lengths`` (tokens), ``null_positions``
  (the token whose score is that of no answer), ``context_starts`` and ``context_lengths`` (the tokens of the context),
  ``context_firsts`` (which token of the whole context is the first), ``starts`` and ``ends`` (first and last token of
  the answer; the null position without one, -100 in a window that cuts one); ``offsets`` list<int32> (start and end in
  characters of each token of the whole context), ``answer_spans`` list<int32> (of each answer, likewise), ``remarks``
  list<int32> (answers that were moved, are ambiguous, or have no place), ``question``, ``context``, ``answers`` (JSON
  list of texts), ``id`` and ``source`` string.
- QuestionAnswering with other models: the columns of Summarization, whose ``prompt`` is the question and the context as
  far as there is room; ``question``, ``context`` (whole), ``answers``, ``id`` and ``answer_spans`` as above;
  ``absent`` int32 (answers that do not stand in the context), ``outside`` bool (whether all answers stand in the part
  that is cut off).
- PreferenceTuning: ``prompt_ids``, ``chosen_ids`` and ``rejected_ids`` list<int32> (the answers with their end token),
  ``prompt`` (in readable form), ``chosen``, ``rejected`` and ``source`` string. With the loss KTO: ``completion_ids``
  and ``completion`` in place of the two answers, and ``label`` int32 (1 for a desirable answer).
- CodeGeneration: the columns of Summarization, with the prompt of the row as ``prompt`` and its completion as
  ``reference``; ``tests`` string (empty for a row without).
- LanguageModeling: ``input_ids`` list<int32> (a whole document: ``DataReport.start_tokens``, its text, and the
  end-of-sequence token), ``text`` string (only in the test split, otherwise empty), ``source`` string.
- All tasks, in the test split of a job with evaluation.slices: ``slices`` string (JSON list of the values of these
  columns, null for none).
- PromptSearch: the columns of the task.
- Summarization and Translation: as InstructionTuning, with the source text as ``prompt``. For a model with an encoder
  and a decoder, ``input_ids`` are the tokens of the source and ``labels`` those of the target, and there is no
  ``prompt_length``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finetune_api.layout import DATA_REPORT
from finetune_api.spec import FineTuneJobSpec, MethodSpec
from finetune_api.stage import TeacherAnswers
from finetune_api.tables.tasks import ModelFamily

IGNORED_LABEL = -100
"""Label of a token without loss; the default ``ignore_index`` of torch.nn.functional.cross_entropy."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitReport(_Record):
    """Statistics of one split."""

    examples: int
    tokens: int
    truncated: int = Field(description="Examples truncated to the sequence length.")
    length_quantiles: dict[str, int] = Field(description="Tokens at p50, p90, p99 and max.")
    label_counts: dict[str, int] = Field(
        default_factory=dict,
        description="TextClassification: examples by label. QuestionAnswering: by ``answer`` or ``no answer``.",
    )


class InvalidRow(_Record):
    """A row that was dropped."""

    file: str
    line: int
    problem: str


class SourceFile(_Record):
    """A file that was read."""

    uri: str
    size: int
    sha256: str
    format: str = Field(default="", description="Detected format, such as ``CSV separated by ';', windows-1252``.")


class ModelContent(_Record):
    """Digests of what a base model consists of, which are equal for copies at any address."""

    weights: str = Field(description="sha256:<hex> over the names and digests of its safetensors files.")
    config: str = Field(description="The same over config.json, without what says how it was saved.")
    tokenizer: str = Field(description="The same over the files of its vocabulary.")


class ModelIdentity(_Record):
    """The identity of the base model."""

    uri: str
    revision: str = Field(description="Commit of an hf:// model; for other models, sha256:<hex> over their files.")
    architecture: str = Field(description="Class name in config.json, such as LlamaForCausalLM.")
    parameters: int = Field(description="Number of parameters in the safetensors files.")
    max_positions: int | None = Field(
        description="Longest sequence that the model supports, in tokens; None if unknown."
    )
    license: str | None = None
    content: ModelContent | None = Field(default=None, description="None if an earlier version has identified it.")


class ModelHandling(_Record):
    """How training and evaluation handle the base model; `modelling.families` decides it."""

    model_class: str = Field(description="Class of transformers that the task loads, such as LlamaForCausalLM.")
    tested: bool = Field(description="Whether tests/families covers this model class.")
    packing: bool = Field(description="Whether several examples share a row in training.")
    batching: bool = Field(description="Whether rows of different length share a batch; otherwise they run alone.")
    batched_generation: bool = Field(description="Whether prompts of different length share a batch in generation.")
    attention: str | None = Field(description="sdpa or eager; None leaves the choice to transformers.")
    untrained: tuple[str, ...] = Field(
        default=(), description="Ends of the names of linear layers to which training gives no gradient."
    )
    unused_parameters: bool = Field(description="Whether training may leave trained parameters without a gradient.")
    new_head: bool = Field(
        default=False, description="TextClassification: whether a head of the base model is replaced, not trained on."
    )
    notes: tuple[str, ...] = Field(default=(), description="What is done differently for this model, in sentences.")


def positions_left(model: ModelIdentity, virtual_tokens: int) -> int | None:
    """The positions of ``model`` behind ``virtual_tokens``; None if unknown."""
    return None if model.max_positions is None else model.max_positions - virtual_tokens


class ContinuedAdapter(_Record):
    """The published adapter that training continues from; it is in ``adapter/`` beside the report."""

    uri: str
    digest: str = Field(description="Digest of the artifact.")
    method: dict[str, Any] = Field(description="spec.method with the settings of the adapter.")
    knows_rows: bool = Field(description="Whether it says which rows it was trained on.")
    learned_test_rows: int = Field(description="Test examples that it was trained on.")


class TeacherReport(_Record):
    """The teacher whose logits or answers the model learns, if it is a model and no endpoint."""

    model: ModelIdentity
    attention: str | None = Field(description="As `ModelHandling.attention`.")
    tokens: int | None = Field(
        description="The logits of token ids below this are compared: those of the tokenizer. None for a head that "
        "gives logits of labels or positions, and for a teacher that generates answers."
    )
    labels: tuple[int, ...] = Field(
        default=(), description="TextClassification: the index of each label of the job among those of the teacher."
    )


class SampleAnswer(_Record):
    """A prompt and the answer of the teacher, to look at."""

    file: str
    line: int
    prompt: str
    answer: str


class ResponsesReport(_Record):
    """The answers of the teacher to the prompts of training and validation; what they cost includes the test split."""

    model: str | None = Field(default=None, description="Name of the model at the endpoint; None without one.")
    url: str | None = Field(default=None, description="Address of the endpoint; None without one.")
    answers: TeacherAnswers
    estimated: int = Field(description="Answers whose tokens the endpoint did not count; a quarter of the bytes.")
    seconds: float = Field(description="Sum of the seconds of all answers, several of which arrive at the same time.")
    left_out: tuple[InvalidRow, ...] = Field(default=(), description="The first 100 rows without a usable answer.")
    suspect: tuple[SampleAnswer, ...] = Field(
        default=(), description="The first 100 answers that read like a refusal; they are learned."
    )
    sample: tuple[SampleAnswer, ...] = Field(default=(), description="The first answers that are learned.")


class DataReport(_Record):
    """``data.json``."""

    task: str
    family: ModelFamily = Field(description="Family of the base model, which decides the form of the task.")
    labels: tuple[str, ...] = Field(default=(), description="TextClassification: labels in order of their index.")
    multi_label: bool = Field(default=False, description="TextClassification: whether a row has any number of labels.")
    max_sequence_length: int
    virtual_tokens: int = Field(default=0, description="Learned tokens before each text, which take positions.")
    initial_tokens: tuple[int, ...] = Field(
        default=(), description="Token ids that the virtual tokens start from; none if they start at random."
    )
    padding: int = Field(description="Token id that pads batches.")
    end_tokens: tuple[int, ...] = Field(
        default=(), description="Token ids that end a generated answer, the most frequent first."
    )
    start_tokens: tuple[int, ...] = Field(
        default=(), description="LanguageModeling: token ids that the tokenizer puts before each document."
    )
    prefix: str = Field(default="", description="What the model sees before each source text.")
    generation: dict[str, Any] = Field(
        default={}, description="Settings of generation that the base model needs, as in generation_config.json."
    )
    template_date: str | None = Field(
        default=None, description="The date that the chat template was given as today, such as 2026-11-28."
    )
    splits: dict[str, SplitReport]
    duplicates: int = Field(description="Rows dropped because they equal an earlier row.")
    contradicting: int = Field(
        description="Rows with the text of an earlier row but another label or choice; dropped unless deduplicate "
        "is None."
    )
    leaked: int = Field(description="Train and validation rows dropped because they are also in test or validation.")
    notes: tuple[str, ...] = Field(default=(), description="What the user should know about the data.")
    invalid: int
    invalid_rows: tuple[InvalidRow, ...] = Field(default=(), description="The first 100 invalid rows.")
    sources: tuple[SourceFile, ...]
    inputs_digest: str = Field(description="Digest of the data and the base model that the revision belongs to.")
    rows: str = Field(default="", description="Detected form of the rows, such as ``ShareGPT conversations``.")
    model: ModelIdentity
    rounded_parameters: int | None = Field(
        default=None, description="Parameters of the model that model.quantization rounds; None without it."
    )
    handling: ModelHandling
    continued: ContinuedAdapter | None = Field(
        default=None, description="The adapter that training continues from; None if it starts from the base model."
    )
    teacher: TeacherReport | None = Field(
        default=None, description="The teacher, if it is a model and no endpoint; None without one."
    )
    responses: ResponsesReport | None = Field(
        default=None, description="distillation.mode Responses: the answers of the teacher."
    )

    @property
    def positions(self) -> int | None:
        """Longest sequence that the model supports behind the virtual tokens; None if unknown."""
        return positions_left(self.model, self.virtual_tokens)

    @property
    def detected(self) -> str:
        """What the data was read as: the formats of the files, and the form of the rows."""
        formats = dict.fromkeys(source.format for source in self.sources)
        return "; ".join(part for part in (" and ".join(formats), self.rows) if part)


def effective_spec(spec: FineTuneJobSpec, data: DataReport) -> FineTuneJobSpec:
    """``spec`` with the method settings that training uses: those of the adapter, if it continues from one."""
    if data.continued is None:
        return spec
    method = MethodSpec.model_validate_json(json.dumps(data.continued.method))
    return spec.model_copy(update={"method": method})


_NOT_FOR_USE: dict[str, Any] = {"splits": {}, "sources": (), "invalid_rows": (), "notes": (), "responses": None}
"""Fields about the data itself, which a model does not need when it is used."""


def report_for_use(data: DataReport) -> dict[str, Any]:
    """The part of the report that is needed to use the tuned model, for the manifest of the artifact."""
    return data.model_dump(mode="json", exclude=set(_NOT_FOR_USE))


def use_report(stored: Mapping[str, Any]) -> DataReport:
    """The report from what `report_for_use` has stored.

    Raises:
        ValidationError: Another version has stored it.
    """
    return DataReport.model_validate_json(json.dumps({**stored, **_NOT_FOR_USE}))


def read_report(directory: Path) -> DataReport:
    """Read ``data.json`` of the prepared data in ``directory``."""
    return DataReport.model_validate_json((directory / DATA_REPORT).read_bytes())
