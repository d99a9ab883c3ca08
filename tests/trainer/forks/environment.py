"""Which environments permit forking from a process that has already imported the libraries."""

from __future__ import annotations

from collections.abc import Mapping

AT_IMPORT = {
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
}
"""Environment variables of a rank that libraries read during their import."""
_READ_LATER = {
    "FINETUNE_EVENTS_FD",
    "JOB_COMPLETION_INDEX",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PATH",
    "PYTEST_CURRENT_TEST",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "RANK",
    "TOKENIZERS_PARALLELISM",
    "WORLD_SIZE",
}


def importing_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for the imports of the fork server, for ranks that tests start with ``environment``."""
    return {**environment, **AT_IMPORT}


def different(environment: Mapping[str, str], imported_under: Mapping[str, str]) -> list[str]:
    """The variables that may give other modules in one environment than in the other."""
    names = environment.keys() | imported_under.keys()
    return sorted(name for name in names - _READ_LATER if environment.get(name) != imported_under.get(name))
