"""Dataset of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, create_model

from finetune_api.base import ApiModel, Rule
from finetune_api.references import SecretRef
from finetune_api.spec.rules import column_form_rules
from finetune_api.tables.tasks import TASKS
from finetune_api.vocabulary import (
    ColumnName,
    DataEncoding,
    DataFormat,
    DataUri,
    Deduplication,
    Documents,
)


class DataSource(ApiModel):
    """A dataset in object storage."""

    uri: DataUri = Field(
        description="Address of one file, of a directory, or a pattern with * and ?, such as s3://bucket/data/*.jsonl. "
        "Files are read in order of name; they may be compressed with gzip or zstd. Files of a directory whose names "
        "say test or validation, as in data/test-00000-of-00001.parquet or dev.csv, are those splits and not training "
        "data, unless the split has a uri."
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for the data; only pods that read it get them. On one machine they "
        "come from the environment instead.",
    )


class SplitSource(ApiModel):
    """A separate dataset, or a fraction of the training data."""

    uri: DataUri | None = Field(
        default=None, description="Address of a separate dataset for this split: a file, a directory or a pattern."
    )
    fraction: float | None = Field(
        default=None,
        gt=0,
        le=0.5,
        description="Share of the training data to hold out instead; above 0, at most 0.5. It holds on average, "
        "because each row is drawn by its content or its group and stays in its split when rows are added.",
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for the data; only pods that read it get them. On one machine they "
        "come from the environment instead.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.uri) != has(self.fraction)",
            message="set either uri or fraction",
            field="uri",
            holds=lambda split: (split.uri is None) != (split.fraction is None),
        ),
        Rule(
            cel="!has(self.secretRef) || has(self.uri)",
            message="secretRef requires uri",
            field="secretRef",
            holds=lambda split: split.secret_ref is None or split.uri is not None,
        ),
    )


class TestSource(SplitSource):
    """A separate dataset, or a fraction of the training data, to compare the tuned model with its baseline."""

    minimum_examples: int = Field(
        default=5,
        ge=1,
        le=1000000,
        description="Smallest number of examples. Fewer fail the job, because they do not measure anything.",
    )


def _column_fields() -> dict[str, Any]:
    """A field for each column of each task."""
    meanings: dict[str, dict[str, None]] = {}
    for task, row in TASKS.items():
        for column in (column for form in row.columns for column in form):
            meanings.setdefault(column.field, {})[f"{task}: {column.meaning}."] = None
    return {
        field: (ColumnName | None, Field(default=None, description=f"{' '.join(texts)} Default: {field}."))
        for field, texts in meanings.items()
    }


if TYPE_CHECKING:

    class _ColumnFields(ApiModel): ...

else:
    _ColumnFields = create_model("_ColumnFields", __base__=ApiModel, **_column_fields())


class Columns(_ColumnFields):
    """Names of the columns (JSON keys) with the data of the task."""

    rules: ClassVar[tuple[Rule, ...]] = (*column_form_rules(),)

    def given(self, field: str) -> str | None:
        """The column name that the job sets for ``field``; None if it sets none."""
        name: str | None = getattr(self, field)
        return name

    def name(self, field: str) -> str:
        """The column name for ``field``: the one that the job sets, or the default."""
        return self.given(field) or field


class CleaningSpec(ApiModel):
    """Rows to remove before training."""

    deduplicate: Deduplication = Field(
        default=Deduplication.EXACT,
        description="Exact removes rows with the same content as an earlier row, and training rows that are also in "
        "validation or test.",
    )
    drop_invalid: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Largest fraction of invalid rows to drop and report; above it the job fails.",
    )


class DatasetSpec(ApiModel):
    """Training, validation and test data."""

    train: DataSource = Field(description="The training data.")
    validation: SplitSource = Field(
        default=SplitSource(fraction=0.1),
        description="Data for validation curves and early stopping. Default: fraction 0.1.",
    )
    test: TestSource = Field(
        default=TestSource(fraction=0.1),
        description="Data to compare the tuned model with the baseline; never used in training. Default: fraction 0.1.",
    )
    format: DataFormat = Field(
        default=DataFormat.AUTO,
        description="Format of the files. Auto detects it from the file name and the first row, and reports it.",
    )
    encoding: DataEncoding = Field(
        default=DataEncoding.AUTO,
        description="Encoding of CSV, JSON and text files. Auto is UTF-8, and UTF-16 where the file begins with it. A "
        "byte order mark takes precedence.",
    )
    documents: Documents | None = Field(
        default=None,
        description="What is one document in a text file: the whole File, what is between two lines that are blank "
        "(BlankLine), or each Line that is not blank. Default: File.",
    )
    columns: Columns = Field(default=Columns(), description="Column names that differ from the defaults.")
    cleaning: CleaningSpec = Field(default=CleaningSpec(), description="Rows to remove before training.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(has(self.validation) && has(self.validation.fraction) ? self.validation.fraction : "
            "has(self.validation) ? 0.0 : 0.1) + (has(self.test) && has(self.test.fraction) ? self.test.fraction : "
            "has(self.test) ? 0.0 : 0.1) <= 0.8",
            message="validation.fraction and test.fraction together may be at most 0.8",
            field="validation",
            holds=lambda data: (data.validation.fraction or 0.0) + (data.test.fraction or 0.0) <= 0.8,
        ),
        Rule(
            cel="!has(self.format) || self.format != 'OpenAIChat' || !has(self.columns) || "
            "!has(self.columns.prompt) && !has(self.columns.completion)",
            message="format OpenAIChat reads columns.messages, not columns.prompt and columns.completion",
            field="columns",
            holds=lambda data: (
                data.format is not DataFormat.OPENAI_CHAT
                or (data.columns.given("prompt") is None and data.columns.given("completion") is None)
            ),
        ),
        Rule(
            cel="!has(self.documents) || !has(self.format) || self.format in ['Auto', 'Text']",
            message="documents is only valid for format Text: in other formats, each row is a document",
            field="documents",
            holds=lambda data: data.documents is None or data.format in (DataFormat.AUTO, DataFormat.TEXT),
        ),
        Rule(
            cel="!has(self.format) || self.format != 'Text' || !has(self.columns) || !has(self.columns.text)",
            message="format Text has no columns; remove columns.text",
            field="columns",
            holds=lambda data: data.format is not DataFormat.TEXT or data.columns.given("text") is None,
        ),
    )
