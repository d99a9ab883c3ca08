"""Secrets of a job: each address is accessed with the Secret that the job names for it, and with no other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.job import FineTuneJob
from finetune_api.secrets import SecretRole
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer import storage
from finetune_trainer.models import hub_token
from finetune_trainer.storage.credentials import use_secrets
from tests import builders
from tests.s3 import S3Server, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        for name in ("data", "adapters"):
            running.make_bucket(name)
        yield running


@pytest.fixture(autouse=True)
def ambient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment whose credentials have no access."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_TOKEN"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    monkeypatch.setenv("FINETUNE_STORAGE_PATIENCE_SECONDS", "1")
    monkeypatch.setenv("HF_TOKEN", "ambient")
    yield
    use_secrets(spec(), {})


def spec(data: str = "s3://data/intents.jsonl") -> FineTuneJobSpec:
    document = builders.manifest(dataset={"train": {"uri": data, "secretRef": {"name": "reader"}}})
    return FineTuneJob.model_validate_json(json.dumps(document)).spec


def variables(role: SecretRole, values: dict[str, str]) -> dict[str, str]:
    """The environment variables of a Secret in a pod."""
    return {f"{role.prefix}{name}": value for name, value in values.items()}


def test_an_address_is_accessed_with_its_own_secret(server: S3Server) -> None:
    wrong = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1"}
    environment = variables(SecretRole.OUTPUT, server.environment) | variables(SecretRole.TRAIN_DATA, wrong)
    use_secrets(spec(), environment)
    storage.write_bytes("s3://adapters/team-a/intents/r1/x", b"mine")
    assert storage.read_bytes("s3://adapters/team-a/intents/r1/x") == b"mine"
    with pytest.raises(StageFailure) as refused:
        storage.read_bytes("s3://data/intents.jsonl")
    assert refused.value.reason is Reason.PERMISSION_DENIED


@pytest.mark.parametrize("address", ["s3://adapters/data", "s3://adapters/data/r*"])
def test_the_secret_of_the_longest_matching_address_is_used(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """The data is in the bucket of the results, but has another Secret."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    Path(server.root, "adapters", "data").mkdir(exist_ok=True)
    Path(server.root, "adapters", "data", "rows").write_bytes(b"rows")
    environment = variables(SecretRole.TRAIN_DATA, server.environment)
    use_secrets(spec(address), environment)
    assert storage.list_files("s3://adapters/data") == [("rows", 4)]
    assert storage.read_bytes("s3://adapters/data/rows") == b"rows"
    with pytest.raises(StageFailure):
        storage.read_bytes("s3://adapters/database")


def test_the_hub_token_of_the_model_secret_is_set_in_the_environment() -> None:
    use_secrets(spec(), variables(SecretRole.MODEL, {"HF_TOKEN": "of the job", "OTHER": "x"}))
    assert os.environ["HF_TOKEN"] == "of the job"
    assert "OTHER" not in os.environ


def test_model_and_teacher_have_hub_tokens_of_their_own() -> None:
    teacher = {"teacher": {"uri": "hf://owner/teacher", "secretRef": {"name": "other"}}}
    document = builders.manifest(model={"uri": "hf://owner/student"}, distillation=teacher)
    job = FineTuneJob.model_validate_json(json.dumps(document)).spec
    of_model, of_teacher = (
        variables(role, {"HF_TOKEN": token})
        for role, token in ((SecretRole.MODEL, "of the model"), (SecretRole.TEACHER, "of the teacher"))
    )
    use_secrets(job, of_model | of_teacher)
    assert job.distillation is not None
    assert job.distillation.teacher.model is not None
    assert [hub_token(one) for one in (job.model, job.distillation.teacher.model)] == ["of the model", "of the teacher"]
    use_secrets(job, of_model)
    assert hub_token(job.distillation.teacher.model) is None
