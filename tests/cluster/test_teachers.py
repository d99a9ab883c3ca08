"""Teachers and searches of prompts on real nodes: pods are killed while they ask, and nodes share a teacher."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster.layout import MACHINE_ADDRESS
from tests.cluster.tenant import INPUTS, STAGE_TIMEOUT_SECONDS, Object, Tenant, classification, instruction
from tests.endpoint_server import Endpoint, Reply, answer, endpoint

KEY = "sk-of-the-team"
AT_ONCE = 2
PAUSE_AT = 20
"""The number of the request at which the server waits for the end of the pod."""
GPU = "nvidia.com/gpu"


@dataclass
class Pausing:
    """A server that does not answer from request `PAUSE_AT` on, until it is released."""

    released: threading.Event = field(default_factory=threading.Event)
    requests: int = 0
    server: Endpoint = field(init=False)

    def respond(self, prompt: str, _: int) -> Reply:
        self.requests += 1
        if self.requests >= PAUSE_AT:
            self.released.wait(STAGE_TIMEOUT_SECONDS)
        return answer("fruit" if "apple" in prompt else "metal")

    def spec(self, **budget: int) -> Object:
        """The endpoint in a spec."""
        settings = {"secretRef": {"name": "endpoint"}, "maxConcurrency": AT_ONCE, **budget}
        return {"url": self.server.url, "model": "m", **settings}

    def kill(self, tenant: Tenant, name: str, of: str) -> None:
        """Kill the pod of a stage while it waits for answers, and then answer again."""
        wait_until(lambda: self.requests >= PAUSE_AT, f"{name} asks", STAGE_TIMEOUT_SECONDS, 0.1)
        tenant.delete_pod(tenant.worker(name, 0, of))
        tenant.until(name, lambda status: stage(status, of)["attempt"] == 2, "attempt 2 starts")
        self.released.set()

    def check(self) -> None:
        """Only requests that were under way are asked again, and each has the key of the Secret."""
        again = sum(count - 1 for count in self.server.prompts().values())
        assert again <= AT_ONCE
        assert set(self.server.keys) == {f"Bearer {KEY}"}


@pytest.fixture
def pausing(tenant: Tenant) -> Iterator[Pausing]:
    tenant.secret("endpoint", {"OPENAI_API_KEY": KEY})
    found = Pausing()
    with endpoint(found.respond, address=MACHINE_ADDRESS) as found.server:
        yield found
        found.released.set()


def test_a_teacher_behind_an_endpoint_is_not_asked_again_after_a_kill(tenant: Tenant, pausing: Pausing) -> None:
    distillation = {"mode": "Responses", "teacher": {"endpoint": pausing.spec()}}
    tenant.apply("taught", instruction(distillation=distillation, distributed={"workers": 1}))
    pausing.kill(tenant, "taught", "prepare")
    status = tenant.until(
        "taught", lambda status: stage(status, "prepare")["state"] == "Succeeded", "prepare has ended"
    )
    tenant.api.delete("FineTuneJob", "taught", tenant.name)
    pausing.check()
    assert "answers kept from before" in stage(status, "prepare")["message"]


def test_a_search_at_an_endpoint_goes_on_after_a_kill_without_a_gpu(tenant: Tenant, pausing: Pausing) -> None:
    search = {"candidates": ["Kind of: {text}", "{text}?"], "shots": [0], "trials": 2, "examples": 20}
    spec = classification(evaluation={"metrics": ["accuracy"]})
    del spec["training"], spec["distributed"]
    tenant.apply(
        "searched",
        spec | {"model": {"endpoint": pausing.spec()}, "method": {"type": "PromptSearch", "promptSearch": search}},
    )
    pausing.kill(tenant, "searched", "train")
    tenant.until_succeeded("searched")
    pausing.check()
    assert (tenant.revision("searched") / "artifact" / "prompt.json").exists()
    for name in ("prepare", "train", "evaluate", "publish"):
        (pod,) = tenant.pods("searched", name)
        assert GPU not in pod["spec"]["containers"][0]["resources"]["limits"]


def test_two_nodes_share_a_teacher(tenant: Tenant) -> None:
    teacher = {"uri": f"s3://{INPUTS}/teacher", "secretRef": {"name": "s3"}}
    for name, zero in (("shared", 3), ("whole", 2)):
        spec = classification(
            method={"type": "Full"},
            distillation={"teacher": teacher, "weight": 0.7},
            training={"maxSteps": 5},
            distributed={"zero": {"stage": zero}},
        )
        del spec["method"]["lora"]
        tenant.apply(name, spec)
    tenant.until_trained("shared")
    tenant.until_trained("whole")
    shared, whole = (
        [(point["crossEntropy"], point["divergence"]) for point in tenant.curve(name)] for name in ("shared", "whole")
    )
    assert len(shared) == 5
    assert [value for step in shared for value in step] == pytest.approx(
        [value for step in whole for value in step], abs=1e-4
    )
