"""Prometheus scrapes the operator and every training job, here an instruction job with ZeRO-3."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.control_plane import wait_until
from tests.cluster.artifacts import assert_digests_match
from tests.cluster.services import PROMETHEUS_URL
from tests.cluster.tenant import Tenant, instruction

NAME = "chat-zero3"


def query(expression: str) -> list[dict[str, Any]]:
    """The result of an instant query."""
    url = f"{PROMETHEUS_URL}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return list(json.load(response)["data"]["result"])


@pytest.fixture(scope="module")
def status(request: pytest.FixtureRequest, tenant: Tenant) -> dict[str, Any]:
    """The final status of the job."""
    request.getfixturevalue("prometheus")  # Must run before the job starts.
    tenant.apply(NAME, instruction(distributed={"zero": {"stage": 3}}, training={"maxSteps": 50}))
    return tenant.until_succeeded(NAME)


def test_the_published_artifact_matches_the_status(
    status: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_digests_match(status, tmp_path / "artifact", monkeypatch)


@pytest.mark.usefixtures("status")
@pytest.mark.parametrize(
    "series",
    [
        "finetune_train_loss",
        "finetune_train_learning_rate",
        "finetune_train_step",
        "finetune_train_tokens_total",
        "finetune_train_step_seconds_bucket",
    ],
)
def test_prometheus_has_scraped_the_training_series(tenant: Tenant, series: str) -> None:
    """The pods are gone, so the series prove that Prometheus scraped them while they ran."""
    assert query(f'last_over_time({series}{{namespace="{tenant.name}",finetune_job="{NAME}"}}[20m])')


@pytest.mark.usefixtures("status")
def test_the_scores_have_the_namespace_of_the_job(tenant: Tenant) -> None:
    series = f'finetune_job_score{{namespace="{tenant.name}",name="{NAME}",side="tuned"}}'
    wait_until(lambda: query(series), "Prometheus has scraped the scores", 60, 0.5)


@pytest.mark.usefixtures("status")
def test_prometheus_scrapes_the_operator() -> None:
    def has_succeeded_job() -> bool:
        found = query('finetune_jobs{phase="Succeeded"}')
        return bool(found) and float(found[0]["value"][1]) >= 1

    wait_until(has_succeeded_job, "Prometheus shows a job that succeeded", 60, 0.5)
