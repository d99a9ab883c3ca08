"""The columns of `kubectl get`."""

from __future__ import annotations

from tests.apiserver.api import Api
from tests.apiserver.desk import Desk
from tests.builders import DIGEST

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"

A_STATUS = {
    "phase": "Succeeded",
    "progress": {"stage": "train", "text": "train 40/120", "percent": 33, "eta": "3m20s"},
    "evaluation": {
        "split": "test",
        "examples": 621,
        "baseline": {"kind": "LinearProbe"},
        "metrics": [],
        "gates": [],
        "metric": "accuracy",
        "baselineScore": "0.7900",
        "score": "0.8400",
    },
    "artifact": {"uri": "s3://adapters/team-a/intents/r1/artifact", "digest": DIGEST},
}


class TestKubectlGet:
    def test_shows_the_progress_of_a_job(self, desk: Desk) -> None:
        desk.apply()
        desk.api.merge_status("FineTuneJob", "intents", desk.namespace, A_STATUS)
        table = desk.api.request("GET", desk.api.path("FineTuneJob", desk.namespace), accept=TABLE)
        narrow = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
        wide = [column["name"] for column in table["columnDefinitions"] if column["priority"]]
        assert narrow == ["Name", "STATUS", "PROGRESS", "ETA", "BASELINE", "SCORE", "AGE"]
        assert wide == ["ARTIFACT"]
        cells = dict(zip([c["name"] for c in table["columnDefinitions"]], table["rows"][0]["cells"], strict=True))
        assert cells.pop("AGE")
        assert cells == {
            "Name": "intents",
            "STATUS": "Succeeded",
            "PROGRESS": "train 40/120",
            "ETA": "3m20s",
            "BASELINE": "0.7900",
            "SCORE": "0.8400",
            "ARTIFACT": "s3://adapters/team-a/intents/r1/artifact",
        }

    def test_new_job_has_empty_cells(self, desk: Desk) -> None:
        desk.apply()
        table = desk.api.request("GET", desk.api.path("FineTuneJob", desk.namespace), accept=TABLE)
        assert [cell for cell in table["rows"][0]["cells"][1:-1] if cell] == []

    def test_short_name_and_category_work(self, admin: Api) -> None:
        resources = admin.request("GET", "/apis/finetune.dev/v1alpha1")["resources"]
        (job,) = (resource for resource in resources if resource["name"] == "finetunejobs")
        assert (job["shortNames"], job["categories"], job["namespaced"]) == (["ftj"], ["finetune"], True)
        assert any(resource["name"] == "finetunejobs/status" for resource in resources)
