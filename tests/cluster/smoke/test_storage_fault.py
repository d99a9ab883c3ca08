"""Credentials are revoked before a job publishes: it publishes nothing, and continues when they are restored."""

from __future__ import annotations

from tests.cluster import services
from tests.cluster.tenant import Tenant, classification, condition_message

NAME = "refused"


def test_credentials_revoked_before_publish_fail_the_job_until_restored(tenant: Tenant) -> None:
    tenant.secret("writer", services.CREDENTIALS)
    output = {"uri": "s3://adapters", "secretRef": {"name": "writer"}}
    spec = classification(distributed={"workers": 1}, output=output)
    tenant.apply(NAME, spec)
    tenant.worker(NAME, 0, "evaluate")
    tenant.secret("writer", services.CREDENTIALS | {"AWS_SECRET_ACCESS_KEY": "another"})
    status = tenant.until_failed(NAME)
    assert (status["failure"]["reason"], status["failure"]["stage"]) == ("PermissionDenied", "publish")
    assert "s3://adapters" in condition_message(status)
    assert not (tenant.revision(NAME) / "artifact").exists()
    assert "Then delete the job and apply it again" in condition_message(status, "Reconciling")
    tenant.secret("writer", services.CREDENTIALS)
    tenant.api.delete("FineTuneJob", NAME, tenant.name)
    tenant.apply(NAME, spec)
    assert tenant.until_succeeded(NAME)["revision"] == status["revision"]
