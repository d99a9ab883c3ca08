"""The container that runs generated programs, on a real node, with the restricted Pod Security Standard."""

from __future__ import annotations

import json
from typing import Any

from finetune_api.stage import Stage
from finetune_operator.resources.job import stage_job
from finetune_operator.settings import CodeExecution, TrainerSettings
from finetune_trainer.sandbox.child import landlock
from tests.apiserver.control_plane import wait_until
from tests.builders import RUNS_CODE
from tests.cluster import images
from tests.cluster.cluster import kubectl
from tests.cluster.tenant import Tenant
from tests.unit.hostile_programs import PROGRAMS, TESTS
from tests.unit.test_resources_job import a_stage_run

NAME = "programs"
RIGHT = "def f(n):\n    return 2 * n\n"
CLIENT = """
import json, os, sys
from finetune_trainer.sandbox.client import RemoteSandbox
from finetune_trainer.sandbox.programs import Program
programs = [Program(code, sys.argv[3]) for code in json.loads(sys.argv[2])]
with RemoteSandbox(sys.argv[1]) as sandbox:
    outcomes = sandbox.run(programs, lambda _: None)
    found = sorted(name for name in os.listdir("/proc") if name.isdigit())
    print(json.dumps([dict(sandbox.details), [[o.ending, o.detail] for o in outcomes], len(found)]))
"""


def the_pod(tenant: Tenant, programs: list[str]) -> dict[str, Any]:
    """The pod of a stage, in which a client of the sandbox takes the place of the stage."""
    resources = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1500Mi"}}
    settings = TrainerSettings(
        image=images.image("finetune-trainer"),
        code_execution=CodeExecution(allowed=True, resources=resources),
    )
    template = stage_job(a_stage_run(Stage.EVALUATE, **RUNS_CODE), settings)["spec"]["template"]
    spec = template["spec"]
    (container,) = spec["containers"]
    socket = json.loads(next(iter(template["metadata"]["annotations"].values())))["codeExecution"]["socket"]
    del container["args"], container["readinessProbe"]
    container["command"] = ["python", "-c", CLIENT, socket, json.dumps(programs), TESTS]
    metadata = {"name": NAME, "namespace": tenant.name, "annotations": template["metadata"]["annotations"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_programs_run_beside_the_stage_and_harm_nothing(tenant: Tenant) -> None:
    hostile = {name: endings for name, _, endings in PROGRAMS}
    programs = [RIGHT, *(code for _, code, _ in PROGRAMS if code.isascii()), RIGHT]
    names = [name for name, code, _ in PROGRAMS if code.isascii()]
    tenant.api.apply(the_pod(tenant, programs), "team")
    pod = wait_until(lambda: ended(tenant), "the pod has ended, and its sidecar with it", 300, 0.5)
    assert pod["status"]["phase"] == "Succeeded", pod["status"]
    details, (first, *outcomes, last), processes = json.loads(kubectl("logs", "-n", tenant.name, NAME))
    # RuntimeDefault allows Landlock, and the nodes have the kernel of this machine.
    assert details["isolation"] == f"seccomp, Landlock {landlock.version()}"
    assert [first[0], last[0]] == ["Passed", "Passed"]
    wrong = {
        name: outcome
        for name, outcome in zip(names, outcomes, strict=True)
        if outcome[0] not in {str(ending) for ending in hostile[name]}
    }
    assert wrong == {}
    assert processes == 1, "the stage does not see the processes of the sandbox"
    (sandbox,) = pod["status"]["initContainerStatuses"]
    assert sandbox["restartCount"] == 0


def ended(tenant: Tenant) -> dict[str, Any] | None:
    pod = tenant.api.get("Pod", NAME, tenant.name)
    return dict(pod) if pod["status"].get("phase") in ("Succeeded", "Failed") else None
