"""``finetune get``: lists FineTuneJobs, or shows one in detail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_api.failures import ExitCode
from finetune_cli.output import Output, columns, print_error, to_json, to_yaml, write
from finetune_cli.page import page
from finetune_cli.stored import RESOURCE, read

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster


async def get(cluster: Cluster, name: str | None, output: Output, all_namespaces: bool) -> int:
    """Print one job or all; returns the exit code."""
    if name and output is Output.TEXT:
        write("\n".join(page(read(await cluster.get(name)))))
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
