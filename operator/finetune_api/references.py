"""References to other objects of Kubernetes."""

from __future__ import annotations

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.vocabulary import SecretName


class SecretRef(ApiModel):
    """A Secret in the job's namespace."""

    name: SecretName = Field(
        description="Name of the Secret. Its keys are environment variables, such as AWS_ACCESS_KEY_ID or HF_TOKEN."
    )
