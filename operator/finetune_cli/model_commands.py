"""The commands that use and compare the results of jobs; `options` has the rule for where a job is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.options import (
    HINT,
    Context,
    Kubeconfig,
    Local,
    Namespace,
    TextOrJson,
    Where,
    on_cluster,
    on_this_machine,
)
from finetune_cli.output import Output

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (predict,):
        app.command()(command)


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="JOB|ARTIFACT",
            help="Name or manifest of a job, with @REVISION for an earlier one; or the address or directory of an "
            "artifact.",
        ),
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; default: the lines of standard input.")
    ] = None,
    *,
    file: Annotated[str | None, typer.Option("-f", "--file", help="File with one text in each line.")] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Lines are JSON objects with the columns of the task, without its answer.")
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="Address or directory of the base model, if not that of the job."),
    ] = None,
    output: TextOrJson = "text",
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Apply the published model of a job to texts: labels with probabilities, or answers.

    Runs on this machine, also for a job on a cluster, and computes as the evaluation did. Needs the extra `trainer`.
    """
    from finetune_api.job import ArtifactStatus
    from finetune_cli.artifacts import Reference, address_of, artifact_of
    from finetune_cli.here import job_here
    from finetune_cli.predict import predict as execute
    from finetune_cli.predict import rows_of

    if texts and file:
        raise typer.BadParameter("not allowed with TEXT", param_hint="--file")
    if not texts and not file and sys.stdin.isatty():
        raise typer.BadParameter("give texts, --file, or lines on standard input", param_hint="TEXT")

    def apply(artifact: ArtifactStatus) -> int:
        return execute(artifact, rows_of(texts or (), file, jsonl), base_model, Output(output))

    where = Where(namespace, context, kubeconfig, local)
    if address := address_of(model):
        on_this_machine(lambda: apply(ArtifactStatus(uri=address, digest="")))
    reference = Reference.of(model)
    if where.is_here(reference.job):
        on_this_machine(lambda: apply(artifact_of(job_here(reference.job, namespace).job, reference)))

    async def of_cluster(cluster: Cluster) -> int:
        from finetune_cli.stored import read

        return apply(artifact_of(read(await cluster.get(reference.job)), reference))

    on_cluster(of_cluster, where, hint=HINT)
