"""The prepared data: what prepare writes and train and evaluate read.

A directory with
- ``data.json``: the data report (`DataReport`),
- ``train.arrow``, ``validation.arrow``, ``test.arrow``: Arrow IPC files, uncompressed so that they can be
  memory-mapped,
- ``tokenizer/``: the tokenizer with the chat template that was used.

Columns, one row an example:
- TextClassification: ``input_ids`` list<int32>, ``label`` int32 (index into DataReport.labels), ``text`` string,
  ``source`` string (``file:line``).
- InstructionTuning: ``input_ids`` list<int32>, ``labels`` list<int32> of the same length (-100 where nothing is
  learned: everything that the assistant did not say), ``prompt_length`` int32 (tokens before the last answer,
  generation prompt included), ``reference`` string (the last answer), ``prompt`` string (what a person reads before
  it), ``source`` string.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from finetune_api.layout import DATA_REPORT

IGNORED_LABEL = -100
"""Label of a token that no loss is taken of, as torch's cross entropy has it."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitReport(_Record):
    """One split in numbers."""

    examples: int
    tokens: int
    truncated: int = Field(description="Examples cut to the sequence length.")
    length_quantiles: dict[str, int] = Field(description="Tokens at p50, p90, p99 and max.")
    label_counts: dict[str, int] = Field(default_factory=dict, description="TextClassification: examples by label.")


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


class ModelIdentity(_Record):
    """Exactly which base model this is."""

    uri: str
    revision: str = Field(description="Commit of an hf:// model; sha256:<hex> over the files of any other.")
    architecture: str = Field(description="Class name in config.json, such as LlamaForCausalLM.")
    parameters: int = Field(description="Parameters in the safetensors files.")
    max_positions: int | None = Field(description="Longest sequence the model knows.")
    license: str | None = None


class DataReport(_Record):
    """``data.json``."""

    task: str
    labels: tuple[str, ...] = Field(default=(), description="TextClassification: labels in order of their index.")
    max_sequence_length: int
    splits: dict[str, SplitReport]
    duplicates: int = Field(description="Rows dropped because an earlier row of the split says the same.")
    leaked: int = Field(description="Train or validation rows dropped because test (or validation) has them too.")
    invalid: int
    invalid_rows: tuple[InvalidRow, ...] = Field(default=(), description="The first hundred.")
    sources: tuple[SourceFile, ...]
    model: ModelIdentity


def read_report(directory: Path) -> DataReport:
    return DataReport.model_validate_json((directory / DATA_REPORT).read_bytes())
