"""Credentials of a stage: each key of a Secret becomes an environment variable with the prefix of its role.

The prefixes keep credentials for different accounts apart, for example for data and results.
"""

from __future__ import annotations

from enum import StrEnum

from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import (
    AdapterSource,
    DataSource,
    EndpointSpec,
    FineTuneJobSpec,
    HarnessPath,
    ModelSpec,
    OutputSpec,
    SplitSource,
    TeacherSpec,
)

_Part = ModelSpec | AdapterSource | TeacherSpec | DataSource | SplitSource | HarnessPath | OutputSpec


class SecretRole(StrEnum):
    """The role of a Secret in a job."""

    MODEL = "MODEL"
    ADAPTER = "ADAPTER"
    TEACHER = "TEACHER"
    ENDPOINT = "ENDPOINT"
    PROPOSER = "PROPOSER"
    TRAIN_DATA = "TRAIN_DATA"
    VALIDATION_DATA = "VALIDATION_DATA"
    TEST_DATA = "TEST_DATA"
    HARNESS = "HARNESS"
    OUTPUT = "OUTPUT"

    @property
    def prefix(self) -> str:
        """Prefix of the environment variables, as in ``FINETUNE_SECRET_OUTPUT_AWS_ACCESS_KEY_ID``."""
        return f"FINETUNE_SECRET_{self}_"


def references(spec: FineTuneJobSpec) -> dict[SecretRole, str]:
    """The names of the Secrets in a spec, by role."""
    named: dict[SecretRole, _Part | EndpointSpec] = {**_parts(spec)}
    if endpoint := _endpoint(spec):
        named[SecretRole.ENDPOINT] = endpoint
    if isinstance(search := spec.method.settings, PromptSearchSpec) and search.proposer:
        named[SecretRole.PROPOSER] = search.proposer
    return {role: part.secret_ref.name for role, part in named.items() if part.secret_ref}


def addresses(spec: FineTuneJobSpec) -> dict[SecretRole, str]:
    """The addresses in a spec that the credentials of each role give access to."""
    return {role: part.uri for role, part in _parts(spec).items() if part.uri}


def _endpoint(spec: FineTuneJobSpec) -> EndpointSpec | None:
    """The endpoint that the job asks."""
    return spec.distillation.teacher.endpoint if spec.distillation else spec.model.endpoint


def _parts(spec: FineTuneJobSpec) -> dict[SecretRole, _Part]:
    """The parts of a spec with an address in storage or on the hub."""
    data, harness = spec.dataset, spec.evaluation.harness_path
    teacher = spec.distillation.teacher if spec.distillation else None
    return {
        SecretRole.MODEL: spec.model,
        **({SecretRole.ADAPTER: spec.model.adapter} if spec.model.adapter else {}),
        **({SecretRole.TEACHER: teacher} if teacher else {}),
        SecretRole.TRAIN_DATA: data.train,
        SecretRole.VALIDATION_DATA: data.validation,
        SecretRole.TEST_DATA: data.test,
        **({SecretRole.HARNESS: harness} if harness else {}),
        SecretRole.OUTPUT: spec.output,
    }
