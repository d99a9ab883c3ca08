"""Credentials are taken away before a job publishes: nothing is published, and it goes on when it has them again."""

from __future__ import annotations

from tests.cluster import services
from tests.cluster.tenant import Tenant, classification, says

NAME = "refused"


def test_credentials_that_are_taken_away_before_publish(tenant: Tenant) -> None:
    tenant.secret("writer", services.CREDENTIALS)
    output = {"uri": "s3://adapters", "secretRef": {"name": "writer"}}
    spec = classification(distributed={"workers": 1}, output=output)
    tenant.apply(NAME, spec)
    tenant.worker(NAME, 0, "evaluate")
    tenant.secret("writer", services.CREDENTIALS | {"AWS_SECRET_ACCESS_KEY": "another"})
    status = tenant.until_failed(NAME)
    assert (status["failure"]["reason"], status["failure"]["stage"]) == ("PermissionDenied", "publish")
    assert "s3://adapters" in says(status)
    assert not (tenant.revision(NAME) / "artifact").exists()
    assert "delete the job and apply the same one" in says(status, "Reconciling")
    tenant.secret("writer", services.CREDENTIALS)
    tenant.api.delete("FineTuneJob", NAME, tenant.name)
    tenant.apply(NAME, spec)
    assert tenant.until_succeeded(NAME)["revision"] == status["revision"]
