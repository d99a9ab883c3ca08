"""Field types without a table: enums, addresses and names."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

# \s is avoided, because Python and the API server (RE2) define it differently.
_PATH = r"[^\x00-\x20\x7f?#]+"

Uri = Annotated[str, StringConstraints(pattern=f"^(file|s3|gs|az)://{_PATH}$", min_length=6, max_length=1024)]
OutputUri = Annotated[str, StringConstraints(pattern=f"^(file|s3|gs|az)://{_PATH}$", min_length=6, max_length=320)]
"""Shorter than Uri, because addresses with this prefix must fit into a termination message."""
ModelUri = Annotated[str, StringConstraints(pattern=f"^(hf|file|s3|gs|az)://{_PATH}$", min_length=6, max_length=1024)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]
SecretName = Annotated[str, StringConstraints(pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


Steps = Annotated[int, Field(ge=1, le=2147483647)]
Seconds = Annotated[int, Field(ge=1, le=2147483647)]


class DataFormat(StrEnum):
    AUTO = "Auto"
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "Parquet"
    OPENAI_CHAT = "OpenAIChat"


class Deduplication(StrEnum):
    NONE = "None"
    EXACT = "Exact"


class Schedule(StrEnum):
    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Precision(StrEnum):
    AUTO = "Auto"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"
