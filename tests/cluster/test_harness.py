"""Tasks of lm-eval, which the trainer image of these tests has: evaluate is stopped in one, and starts over."""

from __future__ import annotations

from tests.apiserver.desk import stage
from tests.cluster.services import BUCKETS
from tests.cluster.tenant import INPUTS, Object, Tenant, condition_message, instruction
from tests.trainer.harness_fixtures import write_tasks

EXAMPLES = 1500
"""Enough that the status shows the task while it runs."""


def in_the_task(status: Object) -> bool:
    return stage(status, "evaluate")["state"] == "Running" and "lm-eval" in condition_message(status, "Evaluated")


def test_a_job_that_is_suspended_in_a_task_measures_it_after_it_resumes(tenant: Tenant) -> None:
    tasks = f"{tenant.name}-tasks"
    write_tasks(BUCKETS / INPUTS / tasks, EXAMPLES)
    harness = {"uri": f"s3://{INPUTS}/{tasks}", "secretRef": {"name": "s3"}}
    evaluation = {"harness": ["choice"], "harnessPath": harness, "gates": [{"metric": "choice/acc", "minimum": 0}]}
    tenant.apply("measured", instruction(evaluation=evaluation, distributed={"workers": 1}))
    tenant.until("measured", in_the_task, "evaluate runs the task")
    tenant.change("measured", suspend=True)
    tenant.until("measured", lambda status: status["phase"] == "Suspended", "the job is suspended")
    tenant.change("measured", suspend=False)
    status = tenant.until_succeeded("measured")
    assert stage(status, "evaluate")["attempt"] == 2
    assert "choice/acc" in {metric["name"] for metric in status["evaluation"]["metrics"]}
