"""The teacher of a distillation."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field
from pydantic.alias_generators import to_camel

from finetune_api.base import ApiModel, Rule
from finetune_api.endpoints import EndpointSpec
from finetune_api.references import SecretRef
from finetune_api.spec.inputs import ModelSpec
from finetune_api.tables.distillation import DistillationMode
from finetune_api.vocabulary import Currency, ModelUri

DEFAULT_MODE = DistillationMode.LOGITS
DEFAULT_TEMPERATURE = 2.0
DEFAULT_WEIGHT = 0.5
DEFAULT_MAX_FAILED = 0.6
DEFAULT_MAX_NEW_TOKENS = 512


def _only_of_endpoint(teacher: TeacherSpec, name: str) -> bool:
    return getattr(teacher, name) is None or teacher.endpoint is not None


class PricesSpec(ApiModel):
    """What the tokens of an endpoint cost, for the cost of a job in its status and report."""

    input: float = Field(ge=0, le=1_000_000, description="Price of a million tokens of prompts.")
    output: float = Field(ge=0, le=1_000_000, description="Price of a million tokens of answers.")
    currency: Currency = Field(default="USD", description="Currency of the prices: a code of ISO 4217.")


class TeacherSpec(ApiModel):
    """The model that the student learns from."""

    uri: ModelUri | None = Field(
        default=None,
        description="Address of the teacher, as model.uri: a model in the Hugging Face layout. For mode Logits it has "
        "the same family, tokens and labels as the student; for mode Responses it generates text, in the stage "
        "respond.",
    )
    revision: str = Field(
        default="main",
        min_length=1,
        max_length=128,
        description="Branch, tag or commit of an hf:// teacher. Pinned to a commit when the job starts.",
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for uri; only pods that read it get them. On one machine they come "
        "from the environment instead.",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=131_072,
        description="Mode Responses: maximum number of tokens of an answer; one that is not finished then is left out. "
        f"An endpoint gets it as max_tokens. Default: {DEFAULT_MAX_NEW_TOKENS}, of an endpoint its own limit.",
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="With endpoint: the temperature of its answers; 0 for the likeliest. Default: that of the "
        "endpoint. A teacher with uri always writes the likeliest answer.",
    )
    prices: PricesSpec | None = Field(
        default=None,
        description="With endpoint: prices of its tokens, so that the status and the report have the cost.",
    )
    endpoint: EndpointSpec | None = Field(
        default=None, description="Mode Responses: a server that answers for the teacher, in prepare and without a GPU."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.uri) != has(self.endpoint)",
            message="set either teacher.uri or teacher.endpoint",
            field="uri",
            holds=lambda teacher: (teacher.uri is None) != (teacher.endpoint is None),
        ),
        Rule(
            cel="!has(self.revision) || self.revision == 'main' || has(self.uri) && self.uri.startsWith('hf://')",
            message="revision is only valid for an hf:// teacher",
            field="revision",
            holds=lambda teacher: teacher.revision == "main" or (teacher.uri or "").startswith("hf://"),
        ),
        Rule(
            cel="!has(self.secretRef) || has(self.uri)",
            message="teacher.secretRef requires uri; an endpoint has a secretRef of its own",
            field="secretRef",
            holds=lambda teacher: teacher.secret_ref is None or teacher.uri is not None,
        ),
        *(
            Rule(
                cel=f"!has(self.{name}) || has(self.endpoint)",
                message=f"teacher.{name} requires teacher.endpoint",
                field=name,
                holds=partial(_only_of_endpoint, name=name),
            )
            for name in ("temperature", "prices")
        ),
    )

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of requests to the endpoint, by their names in the API of OpenAI; it has a default for each
        that is not set."""
        named = {"temperature": self.temperature, "max_tokens": self.max_new_tokens}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def address(self) -> str:
        """Where the teacher is, for people."""
        return self.endpoint.address if self.endpoint else self.uri or ""

    @property
    def model(self) -> ModelSpec | None:
        """The teacher as a model; None for an endpoint."""
        if self.uri is None:
            return None
        return ModelSpec(uri=self.uri, revision=self.revision, secret_ref=self.secret_ref)


def _only_for(mode: DistillationMode, field: str, default: float) -> Rule:
    """A setting is only valid for one mode, except its default."""
    alias = to_camel(field)
    chosen = f"(has(self.mode) ? self.mode : '{DEFAULT_MODE}') == '{mode}'"
    return Rule(
        cel=f"!has(self.{alias}) || self.{alias} == {default} || {chosen}",
        message=f"{alias} is only valid for mode {mode}",
        field=alias,
        holds=lambda spec: spec.mode is mode or getattr(spec, field) == default,
    )


class DistillationSpec(ApiModel):
    """Learning from a larger model, the teacher; the model of the job is the student."""

    teacher: TeacherSpec = Field(description="The teacher.")
    mode: DistillationMode = Field(
        default=DEFAULT_MODE,
        description="Logits: the student learns the teacher's probabilities of every learned token or label (Hinton et "
        "al. 2015). Responses: it learns the teacher's answers to the prompts of training and validation (Kim and Rush "
        "2016).",
    )
    temperature: float = Field(
        default=DEFAULT_TEMPERATURE,
        gt=0,
        le=100,
        description="Logits: both models' logits are divided by it before they are compared. Higher values give more "
        "weight to what the teacher holds improbable.",
    )
    weight: float = Field(
        default=DEFAULT_WEIGHT,
        ge=0,
        le=1,
        description="Logits: w in the training loss (1 - w) · CE + w · T² · KL(teacher ‖ student), in which CE is the "
        "loss without a teacher and T the temperature. At 0 the teacher teaches nothing, at 1 the labels do not.",
    )
    max_failed: float = Field(
        default=DEFAULT_MAX_FAILED,
        ge=0,
        le=1,
        description="Responses: largest share of the prompts of training and validation whose answer cannot be used. "
        "Such rows are left out and reported; above this share the job fails before it trains.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.mode) && self.mode == 'Responses' || has(self.teacher.uri)",
            message="mode Logits requires teacher.uri, because an endpoint does not give the probabilities of all "
            "tokens; use mode Responses with an endpoint",
            field="teacher.uri",
            holds=lambda spec: spec.mode is not DistillationMode.LOGITS or spec.teacher.uri is not None,
        ),
        Rule(
            cel="!has(self.teacher.maxNewTokens) || has(self.mode) && self.mode == 'Responses'",
            message="teacher.maxNewTokens is only valid for mode Responses",
            field="teacher.maxNewTokens",
            holds=lambda spec: spec.teacher.max_new_tokens is None or spec.mode is DistillationMode.RESPONSES,
        ),
        _only_for(DistillationMode.LOGITS, "temperature", DEFAULT_TEMPERATURE),
        _only_for(DistillationMode.LOGITS, "weight", DEFAULT_WEIGHT),
        _only_for(DistillationMode.RESPONSES, "max_failed", DEFAULT_MAX_FAILED),
    )

    @property
    def generating_teacher(self) -> ModelSpec | None:
        """The teacher that answers in the stage respond; None if there is none, or an endpoint answers for it."""
        return self.teacher.model if self.mode is DistillationMode.RESPONSES else None
