"""How credentials reach a stage: each key of a Secret as an environment variable, prefixed by what it is for.

So the data and the result may lie in two accounts, whose variables have the same names.
"""

from __future__ import annotations

from enum import StrEnum

from finetune_api.spec import DataSource, FineTuneJobSpec, ModelSpec, OutputSpec, SplitSource


class SecretRole(StrEnum):
    """What a Secret is for."""

    MODEL = "MODEL"
    TRAIN_DATA = "TRAIN_DATA"
    VALIDATION_DATA = "VALIDATION_DATA"
    TEST_DATA = "TEST_DATA"
    OUTPUT = "OUTPUT"

    @property
    def prefix(self) -> str:
        """What stands before the names of its variables: ``FINETUNE_SECRET_OUTPUT_AWS_ACCESS_KEY_ID``."""
        return f"FINETUNE_SECRET_{self}_"


def references(spec: FineTuneJobSpec) -> dict[SecretRole, str]:
    """The names of the Secrets that a spec gives."""
    return {role: part.secret_ref.name for role, part in _parts(spec).items() if part.secret_ref}


def addresses(spec: FineTuneJobSpec) -> dict[SecretRole, str]:
    """What each role's credentials are for."""
    return {role: part.uri for role, part in _parts(spec).items() if part.uri}


def _parts(spec: FineTuneJobSpec) -> dict[SecretRole, ModelSpec | DataSource | SplitSource | OutputSpec]:
    data = spec.dataset
    return {
        SecretRole.MODEL: spec.model,
        SecretRole.TRAIN_DATA: data.train,
        SecretRole.VALIDATION_DATA: data.validation,
        SecretRole.TEST_DATA: data.test,
        SecretRole.OUTPUT: spec.output,
    }
