"""Jobs on tiny models, prepared once by the real stage."""

from __future__ import annotations

import pytest

from finetune_api.stage import Stage
from tests.trainer.stages import TinyJob, classification_job, instruction_job


@pytest.fixture(scope="session")
def classification(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return prepared(classification_job(tmp_path_factory.mktemp("classification")))


@pytest.fixture(scope="session")
def instruction(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return prepared(instruction_job(tmp_path_factory.mktemp("instruction")))


def prepared(job: TinyJob) -> TinyJob:
    outcome = job.run(Stage.PREPARE)
    assert outcome.code == 0, outcome.log
    return job
