"""The spec of a FineTuneJob: what a person writes.

Defaults live here and not in the CRD, so that a field left out stays left out in the stored object: a GitOps tool sees
no drift, and a later profile can fill in what the job is silent about.
"""

from finetune_api.spec.inputs import (
    CleaningSpec,
    Columns,
    DatasetSpec,
    DataSource,
    ModelSpec,
    SecretRef,
    SplitSource,
    TaskSpec,
)
from finetune_api.spec.job import (
    FineTuneJobSpec,
)
from finetune_api.spec.outcome import (
    EvaluationSpec,
    Gate,
    GenerationSpec,
    KeepSpec,
    OutputSpec,
    ResilienceSpec,
)
from finetune_api.spec.training import (
    CheckpointSpec,
    DistributedSpec,
    EarlyStoppingSpec,
    LoraSpec,
    MethodSpec,
    TrainingSpec,
    ZeroSpec,
)
from finetune_api.spec.vocabulary import (
    DEFAULT_METRICS,
    METRICS_OF_TASK,
    ColumnName,
    DataFormat,
    Deduplication,
    Label,
    MethodType,
    Metric,
    ModelUri,
    OutputUri,
    Precision,
    Schedule,
    TaskType,
    Uri,
)

__all__ = [
    "DEFAULT_METRICS",
    "METRICS_OF_TASK",
    "CheckpointSpec",
    "CleaningSpec",
    "ColumnName",
    "Columns",
    "DataFormat",
    "DataSource",
    "DatasetSpec",
    "Deduplication",
    "DistributedSpec",
    "EarlyStoppingSpec",
    "EvaluationSpec",
    "FineTuneJobSpec",
    "Gate",
    "GenerationSpec",
    "KeepSpec",
    "Label",
    "LoraSpec",
    "MethodSpec",
    "MethodType",
    "Metric",
    "ModelSpec",
    "ModelUri",
    "OutputSpec",
    "OutputUri",
    "Precision",
    "ResilienceSpec",
    "Schedule",
    "SecretRef",
    "SplitSource",
    "TaskSpec",
    "TaskType",
    "TrainingSpec",
    "Uri",
    "ZeroSpec",
]
