"""``finetune get``: lists FineTuneJobs, or shows one in detail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_api.failures import ExitCode
from finetune_cli.here import place_here, view_here
from finetune_cli.local.jobs import LocalJob
from finetune_cli.output import Output, columns, print_error, to_json, to_yaml, write
from finetune_cli.page import page
from finetune_cli.place import OnCluster
from finetune_cli.stored import RESOURCE, read
from finetune_cli.view import of_job

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster


async def get(cluster: Cluster, name: str | None, output: Output, all_namespaces: bool) -> int:
    """Print one job or all; returns the exit code."""
    if name and output is Output.TEXT:
        shown = read(await cluster.get(name))
        place = OnCluster(shown.metadata.namespace, shown.metadata.name)
        write("\n".join(page(of_job(shown), str(shown.status.phase), place)))
    elif output in (Output.TEXT, Output.WIDE):
        _print_table(
            await cluster.table(name, all_namespaces), cluster.namespace, all_namespaces, output is Output.WIDE
        )
    else:
        found = await cluster.get(name) if name else await cluster.list_jobs(all_namespaces)
        jobs = [found] if name else found["items"]
        if output is Output.NAME:
            if jobs:
                write("\n".join(f"{RESOURCE}/{job['metadata']['name']}" for job in jobs))
        else:
            # As kubectl does, omit the field managers.
            for job in jobs:
                job["metadata"].pop("managedFields", None)
            write(to_json(found) if output is Output.JSON else to_yaml(found))
    return ExitCode.DONE


def get_here(local: LocalJob, output: Output) -> int:
    """Print one job of this machine; returns the exit code."""
    document = local.job.model_dump(mode="json", by_alias=True, exclude_none=True)
    if output is Output.NAME:
        write(f"{RESOURCE}/{local.job.metadata.name}")
    elif output in (Output.JSON, Output.YAML):
        write(to_json(document) if output is Output.JSON else to_yaml(document))
    else:
        lines = page(view_here(local), local.phase, place_here(local))
        write("\n".join([*lines, "", f"manifest    {local.manifest or 'unknown'}", f"state       {local.state.path}"]))
    return ExitCode.DONE


def _print_table(table: dict[str, Any], namespace: str, all_namespaces: bool, wide: bool) -> None:
    if table.get("rows"):
        write("\n".join(columns(rows(table, all_namespaces, wide))))
    else:
        print_error(
            "No FineTuneJobs in any namespace." if all_namespaces else f"No FineTuneJobs in namespace {namespace}."
        )


def rows(table: dict[str, Any], all_namespaces: bool, wide: bool) -> Iterator[list[str]]:
    """The cells of a Table from the API server, column names first."""
    defined = table["columnDefinitions"]
    shown = [index for index, column in enumerate(defined) if wide or not column.get("priority")]
    yield (["NAMESPACE"] if all_namespaces else []) + [str(defined[index]["name"]).upper() for index in shown]
    for row in table["rows"]:
        where = [str(row["object"]["metadata"]["namespace"])] if all_namespaces else []
        # As kubectl does, print a missing field as an empty cell.
        yield where + ["" if row["cells"][index] is None else str(row["cells"][index]) for index in shown]
