"""``finetune suspend``, ``resume`` and ``cancel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_api.failures import ExitCode
from finetune_cli.output import Output, complain, write
from finetune_cli.stored import ENDED, RESOURCE

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster


async def suspend(cluster: Cluster, name: str, hold: bool, output: Output) -> int:
    """Set ``spec.suspend``; returns the exit code."""
    stored = await cluster.get(name)
    did = "suspended" if hold else "resumed"
    if phase := _ended(stored):
        complain(f"finetune: {name} has ended ({phase}), so there is nothing to {'suspend' if hold else 'resume'}.")
        return ExitCode.BAD_CONFIGURATION
    if bool(stored["spec"].get("suspend")) is hold:
        did = "is suspended already" if hold else "is not suspended"
    else:
        await cluster.patch(name, {"spec": {"suspend": hold}})
    write(f"{RESOURCE}/{name}" + (f" {did}" if output is Output.TEXT else ""))
    return ExitCode.DONE


async def cancel(cluster: Cluster, name: str, force: bool, output: Output) -> int:
    """Delete a FineTuneJob; returns the exit code.

    One that has ended is refused, as nothing of it runs and only its record would be lost.
    """
    stored = await cluster.get(name)
    phase = _ended(stored)
    if phase and not force:
        complain(
            f"finetune: {name} has ended ({phase}), so there is nothing to cancel; with --force its record is deleted, "
            "and what was published stays."
        )
        return ExitCode.BAD_CONFIGURATION
    await cluster.delete(name, stored["metadata"]["uid"])
    write(f"{RESOURCE}/{name}" + (f" deleted; {_stays(stored)}" if output is Output.TEXT else ""))
    return ExitCode.DONE


def _stays(stored: dict[str, Any]) -> str:
    artifact = stored.get("status", {}).get("artifact")
    if artifact:
        return f"what was published stays at {artifact['uri']}"
    meta, uri = stored["metadata"], str(stored["spec"].get("output", {}).get("uri", "")).rstrip("/")
    return f"its pods end, and what it stored stays below {uri}/{meta['namespace']}/{meta['name']}"


def _ended(stored: dict[str, Any]) -> str | None:
    """The phase that a job ended in; None while there is something left to do, such as a changed spec."""
    status = stored.get("status") or {}
    seen = status.get("observedGeneration", 0) >= stored["metadata"].get("generation", 1)
    return str(status["phase"]) if seen and status.get("completionTime") and status.get("phase") in ENDED else None
