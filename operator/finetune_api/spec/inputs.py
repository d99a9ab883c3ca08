"""Model and task of a job."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.endpoints import EndpointSpec
from finetune_api.references import SecretRef
from finetune_api.spec.rules import required_setting_rules, task_setting_rules
from finetune_api.tables.code import CodeLanguage
from finetune_api.tables.methods import Quantization
from finetune_api.tables.metrics import Metric
from finetune_api.tables.tasks import Measures, TaskType
from finetune_api.vocabulary import (
    MOST_LABEL_CHARACTERS,
    ArtifactDigest,
    ClassWeights,
    DirectoryUri,
    Instruction,
    Label,
    Language,
    LearnedTokens,
    ModelUri,
)


class AdapterSource(ApiModel):
    """A published adapter whose training continues."""

    uri: DirectoryUri = Field(
        description="Address of an artifact that finetune published, such as status.artifact.uri of a job. Its base "
        "must be model.uri: weights, configuration and tokenizer are compared by content, wherever they are."
    )
    digest: ArtifactDigest | None = Field(
        default=None, description="Digest that the artifact must have, such as status.artifact.digest of a job."
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for the adapter. On one machine they come from the environment "
        "instead.",
    )


class ModelSpec(ApiModel):
    """The pretrained model to start from."""

    uri: ModelUri = Field(
        default="",
        exclude_if=lambda uri: not uri,
        description="Address of the model: hf://owner/name, or a directory in the Hugging Face layout (config.json, "
        "tokenizer, *.safetensors) at s3://, gs:// or az://. In `finetune run` also file://; file://./path is relative "
        "to the manifest. Either uri or endpoint is set.",
    )
    endpoint: EndpointSpec | None = Field(
        default=None,
        description="PromptSearch: a server that answers for the model, instead of uri. No stage needs a GPU then. The "
        "answers are kept with the job, so that none is asked for twice.",
    )
    revision: str = Field(
        default="main",
        min_length=1,
        max_length=128,
        description="Branch, tag or commit of an hf:// model. Pinned to a commit when the job starts.",
    )
    quantization: Quantization = Field(
        default=Quantization.NONE,
        description="How the linear layers of the base model are stored, in training and evaluation. NF4: 4 bits for "
        "each weight (QLoRA, Dettmers et al. 2023); Int8: 8 bits (Dettmers et al. 2022). Embeddings, norms, the output "
        "layer and the head of the task keep the precision of the training. Baseline, tuned model and gates are "
        "measured on the model that is stored so.",
    )
    adapter: AdapterSource | None = Field(
        default=None,
        description="A published adapter to start from. Training continues with its weights, a new optimizer and a new "
        "schedule, and publishes one adapter for the base model. Method settings that are omitted are those of the "
        "adapter. Test examples that it was trained on are left out.",
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for the model; only pods that read it get them. On one machine they "
        "come from the environment instead.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.uri) != has(self.endpoint)",
            message="set either model.uri or model.endpoint",
            field="uri",
            holds=lambda model: bool(model.uri) != (model.endpoint is not None),
        ),
        Rule(
            cel="!has(self.secretRef) || has(self.uri)",
            message="model.secretRef requires uri; an endpoint has a secretRef of its own",
            field="secretRef",
            holds=lambda model: model.secret_ref is None or bool(model.uri),
        ),
        Rule(
            cel="!has(self.quantization) || self.quantization == 'None' || has(self.uri)",
            message="quantization requires uri; the weights of a model behind an endpoint are not stored here",
            field="quantization",
            holds=lambda model: model.quantization is Quantization.NONE or bool(model.uri),
        ),
        Rule(
            cel="!has(self.revision) || self.revision == 'main' || has(self.uri) && self.uri.startsWith('hf://')",
            message="revision is only valid for hf:// models",
            field="revision",
            holds=lambda model: model.revision == "main" or model.uri.startswith("hf://"),
        ),
    )

    @property
    def address(self) -> str:
        """Where the model is, for people."""
        return self.endpoint.address if self.endpoint else self.uri


class TaskSpec(ApiModel):
    """The task that the model learns."""

    type: TaskType = Field(description="The task; it determines columns, model head and metrics.")
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=1024)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="TextClassification: all labels. If omitted, they are read from the training data.",
    )
    multi_label: bool = Field(
        default=False,
        description="TextClassification: whether a row has a list of labels, also an empty one. A label is predicted "
        "from a probability of 0.5.",
    )
    class_weights: ClassWeights = Field(
        default=ClassWeights.NONE,
        description="TextClassification: Balanced weighs each row in the training loss by n / (k · count): n training "
        "rows, k labels among them, count rows with its label. The validation loss and all metrics are not weighted.",
    )
    loss: LearnedTokens = Field(
        default=LearnedTokens.ASSISTANT,
        description="InstructionTuning: the tokens that training learns, and of which the validation loss is the mean. "
        "Assistant: those of the messages of the assistant. All: every token of the conversation. The metrics measure "
        "the answers of the assistant in both cases.",
    )
    window_overlap: int | None = Field(
        default=None,
        ge=0,
        le=65536,
        description="QuestionAnswering with an encoder: tokens that consecutive windows of a context have in common, "
        "if it is longer than the model. Bounded by half of what the question leaves of a window. Default: 128.",
    )
    instruction: Instruction | None = Field(
        default=None,
        description="Summarization, Translation, CodeGeneration, and QuestionAnswering with a model that generates: "
        "what the model is asked to do, before the text. Default: that of the task; none for CodeGeneration where the "
        "prompt is not part of a conversation. Of the models with an encoder and a decoder, only those of T5's family "
        "take it.",
    )
    source_language: Language | None = Field(
        default=None,
        description="Translation: language of the source as a BCP-47 tag, such as en or zh-Hant, or as the code of the "
        "model's tokenizer, such as eng_Latn.",
    )
    target_language: Language | None = Field(
        default=None, description="Translation: language of the target. It also decides how BLEU splits words."
    )
    language: CodeLanguage = Field(
        default=CodeLanguage.PYTHON,
        description="CodeGeneration: the programming language. Tests run in Python only, and programs in Other are not "
        "parsed.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *task_setting_rules(
            {
                "multi_label": False,
                "class_weights": ClassWeights.NONE,
                "loss": LearnedTokens.ASSISTANT,
                "language": CodeLanguage.PYTHON,
            }
        ),
        *required_setting_rules(),
        Rule(
            cel="!has(self.classWeights) || self.classWeights == 'None' || !has(self.multiLabel) || !self.multiLabel",
            message="classWeights cannot be combined with multiLabel: a row with several labels has no single weight",
            field="classWeights",
            holds=lambda task: task.class_weights is ClassWeights.NONE or not task.multi_label,
        ),
        Rule(
            cel=None,  # The list has type set. In CEL the rule would be quadratic and exceed the cost limit.
            message="labels must be different from each other",
            field="labels",
            holds=lambda task: task.labels is None or len(set(task.labels)) == len(task.labels),
        ),
        Rule(
            # The spec travels in an annotation, of which Kubernetes allows 256 KiB.
            cel=f"!has(self.labels) || self.labels.map(label, size(label)).sum() <= {MOST_LABEL_CHARACTERS}",
            message=f"labels have more than {MOST_LABEL_CHARACTERS:,} characters in all; leave them out, and prepare "
            "finds them in the training data",
            field="labels",
            holds=lambda task: sum(map(len, task.labels or ())) <= MOST_LABEL_CHARACTERS,
        ),
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics that can be measured."""
        return self._measures.metrics

    @property
    def default_metrics(self) -> tuple[Metric, ...]:
        """The metrics that are measured if the job names none and runs no programs; the first is the score."""
        return self.measurable(self._measures.default_metrics)

    def measurable(self, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
        """``metrics`` without those that the programming language does not have."""
        return tuple(metric for metric in metrics if metric is not Metric.PARSES or self.language.row.parses)

    @property
    def _measures(self) -> Measures:
        row = self.type.row
        return row.multi_label if self.multi_label and row.multi_label else row.measures
