"""SIGTERM in the stages that start anew: they end at once and run again as if nothing had been."""

from __future__ import annotations

import signal

import pytest

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import Stage
from tests.trainer.stages import TinyJob


@pytest.fixture(scope="module")
def trained(classification: TinyJob) -> TinyJob:
    job = classification.named("whole", training={"maxSteps": 4})
    assert job.run(Stage.TRAIN).code == 0
    return job


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EVALUATE, Stage.PUBLISH])
def test_a_stop_ends_the_stage_and_it_can_be_run_again(trained: TinyJob, stage: Stage) -> None:
    job = TinyJob(trained.root, trained.spec, "stopped-prepare") if stage is Stage.PREPARE else trained
    with job.start(stage) as running:
        running.wait_until(lambda: running.progress() is not None)
        running.process.send_signal(signal.SIGTERM)
        stopped = running.wait()
    assert stopped.code == ExitCode.STOPPED, stopped.log
    assert stopped.report.error is not None
    assert stopped.report.error.reason is Reason.STOPPED
    again = job.run(stage, attempt=2)
    assert again.code == 0, again.log
