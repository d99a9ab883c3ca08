"""The jobs of this machine, as the commands show them."""

from __future__ import annotations

from finetune_api.stage import Stage
from finetune_cli.local import Machine, home
from finetune_cli.local.jobs import LocalJob, find, is_path
from finetune_cli.manifest import ManifestError, load
from finetune_cli.place import ThisMachine
from finetune_cli.view import View, of_job
from finetune_core.policies.world import world_of


def job_here(argument: str, namespace: str | None) -> LocalJob:
    """The local job that a manifest path or a name means.

    Raises:
        LocalError: There is none, or the name is that of several.
    """
    return find(home(), argument, namespace, _name_in(argument))


def view_here(local: LocalJob) -> View:
    """The view of a job from its saved state; it has no running stage if no process runs the job."""
    view = of_job(local.job)
    spec = local.job.spec
    world = Machine.detect().fit(world_of(Stage.TRAIN, spec), spec.training.batch_size)
    return View(view.job, world, view.running if local.running else None)


def place_here(local: LocalJob) -> ThisMachine:
    """The place of a job, for a command other than the one that runs it."""
    return ThisMachine(local.state, f"finetune run {local.manifest}" if local.manifest else None)


def _name_in(argument: str) -> str | None:
    """The name of the job in a manifest; None if ``argument`` is none, or cannot be read any more."""
    if argument == "-" or not is_path(argument):
        return None
    try:
        return load(argument).metadata.name
    except ManifestError:
        return None
