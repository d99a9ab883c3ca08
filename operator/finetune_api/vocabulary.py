"""Field types without a table: enums, addresses and names."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue, StringConstraints

# \s is avoided, because Python and the API server (RE2) define it differently.
_PATH = r"[^\x00-\x20\x7f?#@/]*(/[^\x00-\x20\x7f?#]*)?"
"""Bucket and path. There is no user name before the bucket: credentials do not belong in a manifest."""


def _not_on_a_cluster(schemes: str) -> dict[str, JsonValue]:
    """The rule of the API server that pydantic does not have: in a pod, file:// would read the pod's own files."""
    message = f"file:// is an address on one machine, for finetune run; pods need {schemes}"
    return {"x-kubernetes-validations": [{"rule": "!self.startsWith('file:')", "message": message}]}


DataUri = Annotated[
    str,
    StringConstraints(
        pattern=r"^(file|s3|gs|az)://[^\x00-\x20\x7f#@/]*(/[^\x00-\x20\x7f#]*)?$", min_length=6, max_length=1024
    ),
    Field(json_schema_extra=_not_on_a_cluster("s3://, gs:// or az://")),
]
"""An address that may have the wildcards * and ?."""
OutputUri = Annotated[
    str,
    StringConstraints(pattern=f"^(file|s3|gs|az)://{_PATH}$", min_length=6, max_length=320),
    Field(json_schema_extra=_not_on_a_cluster("s3://, gs:// or az://")),
]
"""Shorter than DataUri, because addresses with this prefix must fit into a termination message."""
ModelUri = Annotated[
    str,
    StringConstraints(pattern=f"^(hf|file|s3|gs|az)://{_PATH}$", min_length=6, max_length=1024),
    Field(json_schema_extra=_not_on_a_cluster("hf://, s3://, gs:// or az://")),
]
DirectoryUri = Annotated[
    str,
    StringConstraints(pattern=f"^(file|s3|gs|az)://{_PATH}$", min_length=6, max_length=1024),
    Field(json_schema_extra=_not_on_a_cluster("s3://, gs:// or az://")),
]
EndpointUrl = Annotated[
    str,
    # Neither credentials nor a query: both would appear in reports.
    StringConstraints(pattern=r"^(http|https)://[^\x00-\x20\x7f?#@/]+(/[^\x00-\x20\x7f?#]*)?$", max_length=1024),
]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$", max_length=3)]
ServedModel = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]+$", max_length=256)]
ArtifactDigest = Annotated[str, StringConstraints(pattern="^sha256:[0-9a-f]{64}$", max_length=71)]
MOST_LABEL_CHARACTERS = 16384
"""Most characters of all labels of a task."""
Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Instruction = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Language = Annotated[str, StringConstraints(min_length=2, max_length=64)]
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
    TEXT = "Text"


class Documents(StrEnum):
    """What is one document in a text file."""

    FILE = "File"
    BLANK_LINE = "BlankLine"
    LINE = "Line"


class DataEncoding(StrEnum):
    """Names of IANA, of the encodings that spreadsheets and older programs write."""

    AUTO = "Auto"
    UTF_8 = "UTF-8"
    UTF_16 = "UTF-16"
    WINDOWS_1250 = "windows-1250"
    WINDOWS_1251 = "windows-1251"
    WINDOWS_1252 = "windows-1252"
    WINDOWS_1253 = "windows-1253"
    WINDOWS_1254 = "windows-1254"
    WINDOWS_1255 = "windows-1255"
    WINDOWS_1256 = "windows-1256"
    WINDOWS_1257 = "windows-1257"
    WINDOWS_1258 = "windows-1258"
    ISO_8859_2 = "ISO-8859-2"
    ISO_8859_15 = "ISO-8859-15"
    KOI8_R = "KOI8-R"
    MACINTOSH = "macintosh"
    SHIFT_JIS = "Shift_JIS"
    EUC_JP = "EUC-JP"
    GB18030 = "GB18030"
    BIG5 = "Big5"
    EUC_KR = "EUC-KR"


class Deduplication(StrEnum):
    NONE = "None"
    EXACT = "Exact"


class ClassWeights(StrEnum):
    NONE = "None"
    BALANCED = "Balanced"


class LearnedTokens(StrEnum):
    ASSISTANT = "Assistant"
    ALL = "All"


class BaselineChoice(StrEnum):
    """What the tuned model is measured against."""

    UNTUNED = "Untuned"
    PREVIOUS = "Previous"


class Schedule(StrEnum):
    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Precision(StrEnum):
    AUTO = "Auto"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"
