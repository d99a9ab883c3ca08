"""Jobs whose teacher generates answers in a stage of its own, between prepare and train."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.job import ConditionType, FineTuneJob, FineTuneJobStatus, Phase, StageState
from finetune_api.stage import STAGES, Device, Stage
from finetune_core.status import current_stage
from finetune_core.summaries import summary
from tests.builders import a_job, a_report, a_run, condition, failed, succeeded
from tests.passes import pass_

TAUGHT: dict[str, Any] = {
    "task": {"type": "InstructionTuning"},
    "distillation": {"mode": "Responses", "teacher": {"uri": "hf://owner/teacher"}},
}


def stages_of(job: FineTuneJob) -> list[Stage]:
    """The stages that are started one after the other."""
    runs, order = [], []
    while not job.status.completion_time:
        job, made = pass_(job, *runs)
        for run in made.start:
            order.append(run.id.stage)
            runs.append(succeeded(run.id.stage, revision=run.id.revision))
    return order


def test_the_teacher_responds_before_the_training() -> None:
    assert stages_of(a_job(**TAUGHT)) == list(STAGES)


@pytest.mark.parametrize(
    "teacher",
    [{"endpoint": {"url": "https://models.example/v1", "model": "m"}}, None],
    ids=["endpoint", "no teacher"],
)
def test_other_jobs_have_no_such_stage(teacher: dict[str, Any] | None) -> None:
    taught = {"distillation": {"mode": "Responses", "teacher": teacher}} if teacher else {}
    assert stages_of(a_job(task=TAUGHT["task"], **taught)) == [stage for stage in STAGES if stage is not Stage.RESPOND]


def test_a_teacher_whose_logits_are_learned_does_not_respond() -> None:
    teacher = {"distillation": {"teacher": {"uri": "hf://owner/teacher"}}}
    assert Stage.RESPOND not in stages_of(a_job(**teacher))


def test_it_has_a_phase_and_a_condition_of_its_own() -> None:
    job, made = pass_(a_job(**TAUGHT), succeeded(Stage.PREPARE))
    (run,) = made.start
    assert (run.id.stage, run.world.size) == (Stage.RESPOND, 1)
    assert job.status.phase is Phase.RESPONDING
    assert condition(job.status, ConditionType.RESPONDED).status == "Unknown"
    job, _ = pass_(job, succeeded(Stage.PREPARE), succeeded(Stage.RESPOND))
    responded = condition(job.status, ConditionType.RESPONDED)
    assert (responded.status, responded.message) == ("True", summary(a_report(Stage.RESPOND)) + ".")
    assert "the teacher answered 5,500 of 5,588 prompts (40 answers kept from before, 500,000 tokens)" in (
        responded.message
    )


def test_it_does_not_exist_in_the_conditions_before_it_starts() -> None:
    job, _ = pass_(a_job(**TAUGHT))
    assert job.status.stage(Stage.RESPOND).state is StageState.PENDING
    assert ConditionType.RESPONDED not in {one.type for one in job.status.conditions}


def test_it_runs_on_a_gpu_where_the_training_does() -> None:
    for gpus, device in ((0, Device.CPU), (4, Device.GPU)):
        job = a_job(**TAUGHT, distributed={"gpusPerWorker": gpus})
        _, made = pass_(job, succeeded(Stage.PREPARE))
        assert (made.start[0].world.device, made.start[0].world.workers) == (device, 1)


def test_it_is_retried_like_every_stage() -> None:
    runs = [succeeded(Stage.PREPARE), failed(Stage.RESPOND, Reason.UNAVAILABLE)]
    job, _ = pass_(a_job(**TAUGHT), *runs)
    again, made = pass_(job, *runs, at=600)
    assert [(run.id.stage, run.id.attempt) for run in made.start] == [(Stage.RESPOND, 2)]
    stage = current_stage(again.status)
    assert stage
    assert stage.name is Stage.RESPOND


def test_it_is_suspended_like_every_stage() -> None:
    job, _ = pass_(a_job(**TAUGHT), succeeded(Stage.PREPARE))
    _, made = pass_(job, succeeded(Stage.PREPARE), a_run(Stage.RESPOND), stop=True)
    assert [stop.id.stage for stop in made.stop] == [Stage.RESPOND]


def test_a_revision_with_the_weights_of_another_takes_the_answers_that_are_stored() -> None:
    """Publish has deleted the prepared data, which evaluate reads."""
    done, _ = pass_(a_job(**TAUGHT), *[succeeded(stage) for stage in STAGES])
    changed = a_job(done.status, generation=2, **TAUGHT, evaluation={"gates": [{"metric": "loss", "maximum": 9}]})
    job, made = pass_(changed, *[succeeded(stage) for stage in STAGES])
    assert job.status.revision == 2
    assert [run.id.stage for run in made.start] == [Stage.PREPARE]
    job, made = pass_(job, succeeded(Stage.PREPARE, revision=2))
    assert [run.id.stage for run in made.start] == [Stage.RESPOND]
    job, made = pass_(job, succeeded(Stage.PREPARE, revision=2), succeeded(Stage.RESPOND, revision=2))
    assert [run.id.stage for run in made.start] == [Stage.EVALUATE]


def test_another_spec_has_the_stages_of_that_spec() -> None:
    job, _ = pass_(a_job(**TAUGHT), succeeded(Stage.PREPARE))
    without, _ = pass_(a_job(job.status, generation=2, task=TAUGHT["task"]), succeeded(Stage.PREPARE))
    assert without.status.revision == 2
    assert Stage.RESPOND not in without.status.planned
    back, _ = pass_(a_job(without.status, generation=3, **TAUGHT))
    assert (back.status.revision, Stage.RESPOND in back.status.planned) == (1, True)


def test_its_entry_survives_the_status_subresource() -> None:
    job, _ = pass_(a_job(**TAUGHT))
    stored = FineTuneJobStatus.model_validate_json(job.status.model_dump_json(exclude_none=True))
    assert Stage.RESPOND in stored.planned
