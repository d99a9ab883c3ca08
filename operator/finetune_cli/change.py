"""``finetune suspend``, ``resume`` and ``cancel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_api.failures import ExitCode
from finetune_cli.output import Output, print_error, write
from finetune_cli.stored import FINISHED_PHASES, RESOURCE

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster


async def suspend(cluster: Cluster, name: str, suspended: bool, output: Output) -> int:
    """Set ``spec.suspend``; returns the exit code."""
    stored = await cluster.get(name)
    result = "suspended" if suspended else "resumed"
    if phase := _finished_phase(stored):
        print_error(f"finetune: {name} has finished ({phase}), so it cannot be {result}.")
        return ExitCode.BAD_CONFIGURATION
    if bool(stored["spec"].get("suspend")) is suspended:
        result = "is already suspended" if suspended else "is not suspended"
    else:
        await cluster.patch(name, {"spec": {"suspend": suspended}})
    write(f"{RESOURCE}/{name}" + (f" {result}" if output is Output.TEXT else ""))
    return ExitCode.DONE


async def cancel(cluster: Cluster, name: str, force: bool, output: Output) -> int:
    """Delete a FineTuneJob; returns the exit code.

    A finished job is refused without ``force``: it has no pods, and only its record would be lost.
    """
    stored = await cluster.get(name)
    phase = _finished_phase(stored)
    if phase and not force:
        print_error(
            f"finetune: {name} has finished ({phase}), so there is nothing to cancel; --force deletes its record and "
            "keeps the published artifact."
        )
        return ExitCode.BAD_CONFIGURATION
    await cluster.delete(name, stored["metadata"]["uid"])
    write(f"{RESOURCE}/{name}" + (f" deleted; {_kept(stored)}" if output is Output.TEXT else ""))
    return ExitCode.DONE


def _kept(stored: dict[str, Any]) -> str:
    artifact = stored.get("status", {}).get("artifact")
    if artifact:
        return f"its artifact is kept at {artifact['uri']}"
    meta, uri = stored["metadata"], str(stored["spec"].get("output", {}).get("uri", "")).rstrip("/")
    return f"its pods are stopped, and its files are kept under {uri}/{meta['namespace']}/{meta['name']}"


def _finished_phase(stored: dict[str, Any]) -> str | None:
    """The phase of a finished job; None if it is not finished, or its spec has changed since."""
    status = stored.get("status") or {}
    observed = status.get("observedGeneration", 0) >= stored["metadata"].get("generation", 1)
    return (
        str(status["phase"])
        if observed and status.get("completionTime") and status.get("phase") in FINISHED_PHASES
        else None
    )
