"""Storage is away for a minute: training waits, and nothing is published by half."""

from __future__ import annotations

import time

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster import services
from tests.cluster.curves import long_job
from tests.cluster.tenant import Tenant, classification

OUTAGE_SECONDS = 60
LONG_STEPS = 400
"""So many that it trains when the other job publishes."""


def test_down_during_checkpoint_and_during_publish(tenant: Tenant) -> None:
    tenant.apply("publishing", classification(distributed={"workers": 1}))
    wait_until(lambda: stage_or_none(tenant, "publishing") in ("train", "evaluate"), "it trains", 300, 0.1)
    tenant.apply("saving", long_job(training={"maxSteps": LONG_STEPS}))
    wait_until(lambda: tenant.pods("publishing", "publish"), "there is a pod to publish", 300, 0.05)
    services.S3.kill()
    time.sleep(OUTAGE_SECONDS)  # An outage of so long is what is tested.
    assert not (tenant.revision("publishing") / "artifact" / "manifest.json").exists()
    assert tenant.status("publishing")["phase"] not in ("Succeeded", "Failed")
    services.S3.again(services.s3_ready)
    assert tenant.until_succeeded("publishing")["artifact"]["digest"]
    status = tenant.until_trained("saving")
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (1, 0)
    assert [point["step"] for point in tenant.curve("saving")] == list(range(1, LONG_STEPS + 1))


def stage_or_none(tenant: Tenant, name: str) -> str | None:
    """The stage that runs."""
    phases = {"Preparing": "prepare", "Training": "train", "Evaluating": "evaluate", "Publishing": "publish"}
    return phases.get(tenant.status(name).get("phase", ""))
