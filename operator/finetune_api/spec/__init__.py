"""The spec of a FineTuneJob.

Defaults are defined here and not in the CRD, so that the stored object does not contain fields that the user omitted:
GitOps tools see no drift.
"""

from finetune_api.endpoints import EndpointSpec
from finetune_api.method_settings import Ia3Spec, LoraInitialization, LoraSpec, PromptTuningSpec
from finetune_api.references import SecretRef
from finetune_api.spec.dataset import CleaningSpec, Columns, DatasetSpec, DataSource, SplitSource
from finetune_api.spec.distillation import DistillationSpec, PricesSpec, TeacherSpec
from finetune_api.spec.inputs import AdapterSource, ModelSpec, TaskSpec
from finetune_api.spec.job import (
    FineTuneJobSpec,
)
from finetune_api.spec.outcome import (
    EvaluationSpec,
    Gate,
    GenerationSpec,
    HarnessPath,
    KeepSpec,
    OutputSpec,
    ReportSpec,
    ResilienceSpec,
)
from finetune_api.spec.training import (
    CheckpointSpec,
    DistributedSpec,
    EarlyStoppingSpec,
    MethodSpec,
    TrainingSpec,
    ZeroSpec,
)
from finetune_api.tables.distillation import DistillationMode
from finetune_api.tables.harness import HarnessMetric, MetricName
from finetune_api.tables.methods import MethodType, Quantization
from finetune_api.tables.metrics import Metric
from finetune_api.tables.tasks import TaskType
from finetune_api.vocabulary import (
    BaselineChoice,
    ColumnName,
    DataEncoding,
    DataFormat,
    DataUri,
    Deduplication,
    Documents,
    Label,
    ModelUri,
    OutputUri,
    Precision,
    Schedule,
)

__all__ = [
    "AdapterSource",
    "BaselineChoice",
    "CheckpointSpec",
    "CleaningSpec",
    "ColumnName",
    "Columns",
    "DataEncoding",
    "DataFormat",
    "DataSource",
    "DataUri",
    "DatasetSpec",
    "Deduplication",
    "DistillationMode",
    "DistillationSpec",
    "DistributedSpec",
    "Documents",
    "EarlyStoppingSpec",
    "EndpointSpec",
    "EvaluationSpec",
    "FineTuneJobSpec",
    "Gate",
    "GenerationSpec",
    "HarnessMetric",
    "HarnessPath",
    "Ia3Spec",
    "KeepSpec",
    "Label",
    "LoraInitialization",
    "LoraSpec",
    "MethodSpec",
    "MethodType",
    "Metric",
    "MetricName",
    "ModelSpec",
    "ModelUri",
    "OutputSpec",
    "OutputUri",
    "Precision",
    "PricesSpec",
    "PromptTuningSpec",
    "Quantization",
    "ReportSpec",
    "ResilienceSpec",
    "Schedule",
    "SecretRef",
    "SplitSource",
    "TaskSpec",
    "TaskType",
    "TeacherSpec",
    "TrainingSpec",
    "ZeroSpec",
]
