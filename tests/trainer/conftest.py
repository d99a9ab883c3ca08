"""Jobs with tiny models, prepared once by the real prepare stage."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness_fixtures import LIBRARY

from finetune_api.stage import Stage
from finetune_trainer.patches.peft import without_bitsandbytes
from tests.trainer.forks.client import close_fork_server, import_under
from tests.trainer.local_session import ROOT
from tests.trainer.stages import TinyJob, classification_job, instruction_job
from tests.trainer.tiny_models import STRONG_INIT, save_gpt2, save_llama

if sys.dont_write_bytecode:
    # Imports of torch take twice as long without bytecode caches, and many test processes import it.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "finetune-operator", "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(cache)
    sys.dont_write_bytecode = False

# The product sets it with the first download. Later ranks could not be forked from a server without it.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

# As in a stage; tests that need it import it by itself.
without_bitsandbytes()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give each test the random numbers that it has alone, whatever ran before it in this process."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    import_under(os.environ)
    yield
    close_fork_server()


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """Restore what libraries such as lm_eval change when they are imported, after each file."""
    variables, path = dict(os.environ), sys.path.copy()
    yield
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:] = path


@pytest.fixture(scope="session")
def classification(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return prepared(classification_job(tmp_path_factory.mktemp("classification")))


@pytest.fixture(scope="session")
def instruction(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return prepared(instruction_job(tmp_path_factory.mktemp("instruction")))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a Llama whose answers depend on its inputs."""
    directory = tmp_path_factory.mktemp("models") / "llama"
    save_llama(directory, STRONG_INIT)
    return directory


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a GPT-2 of that kind."""
    return save_gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="module")
def harness_library() -> Iterator[None]:
    """lm-eval is installed, and loads nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HARNESS", LIBRARY)
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield


@pytest.fixture
def stage_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage processes find the sources of `tests.stage_program`, and succeed at once."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "operator")]))
    monkeypatch.delenv("FAKE_STAGES", raising=False)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the behaviour of each attempt of a stage: ``stages(train=["crash", "done"])``, or of one revision:
    ``stages(train_r1=["crash"])``.
    """
    return lambda **words: monkeypatch.setenv("FAKE_STAGES", json.dumps(words))


def prepared(job: TinyJob) -> TinyJob:
    outcome = job.run(Stage.PREPARE)
    assert outcome.code == 0, outcome.log
    return job
