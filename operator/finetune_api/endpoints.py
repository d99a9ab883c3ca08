"""Models behind an endpoint with the API of OpenAI."""

from __future__ import annotations

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.references import SecretRef
from finetune_api.vocabulary import EndpointUrl, ServedModel


class EndpointSpec(ApiModel):
    """A model that a server with the API of OpenAI answers for, such as vLLM or a hosted service."""

    url: EndpointUrl = Field(
        description="Base address of the API, such as https://models.example/v1; requests go to its path "
        "chat/completions."
    )
    model: ServedModel = Field(description="Name of the model, as the server lists it.")
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the key OPENAI_API_KEY; only pods that ask the endpoint get it. On one machine the "
        "environment has it instead.",
    )
    max_requests: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Most requests of the job, retries included. Above it the job fails; the answers are kept. "
        "Default: no limit.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000_000,
        description="Most tokens of the job, prompts and answers together. Above it the job fails; the answers are "
        "kept. Default: no limit.",
    )
    max_concurrency: int = Field(default=8, ge=1, le=256, description="Most requests at the same time.")

    @property
    def address(self) -> str:
        """Where the model is, for people."""
        return f"{self.model} at {self.url}"
