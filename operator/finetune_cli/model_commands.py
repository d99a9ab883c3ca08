"""The commands that use and compare the results of jobs; `options` has the rule for where a job is."""

from __future__ import annotations

import sys
from dataclasses import replace
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
    complete_job,
    on_cluster,
    on_this_machine,
)
from finetune_cli.output import Output

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (predict, compare):
        app.command()(command)


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="JOB|ARTIFACT",
            help="Name or manifest of a job, with @REVISION for an earlier one; or the address or directory of an "
            "artifact.",
            autocompletion=complete_job,
        ),
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts; default: the lines of standard input.")
    ] = None,
    *,
    file: Annotated[
        str | None, typer.Option("-f", "--file", help="File with one text in each line, or a .jsonl file.")
    ] = None,
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
    """Apply the published model of a job to texts.

    Prints labels with probabilities, answers, or for LanguageModeling the perplexity of each text. Runs on this
    machine, also for a job on a cluster, and computes as the evaluation did. Needs the extra `trainer`.
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


def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help="JOB, JOB@REVISION, artifact, or evaluation.json.", autocompletion=complete_job
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The same.", autocompletion=complete_job)],
    *,
    different_tests: Annotated[
        bool, typer.Option("--different-tests", help="Show the scores even if the test examples differ.")
    ] = False,
    output: TextOrJson = "text",
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Compare the scores of two results.

    These are revisions, jobs, artifacts or evaluation.json files. The difference has a 95 % interval, paired by
    test example, if the predictions of both are stored. Results on different test examples are refused. Needs the
    extra `data` or `trainer`.
    """
    from finetune_cli.artifacts import Reference
    from finetune_cli.compare import Side, side_of_address, side_of_job
    from finetune_cli.compare import compare as execute
    from finetune_cli.here import job_here
    from finetune_cli.history import specs

    where = Where(namespace, context, kubeconfig, local)

    def side_here(argument: str) -> Side | None:
        """The side if it is not on the cluster."""
        if side := side_of_address(argument):
            return side
        reference = Reference.of(argument)
        if not replace(where, context=None, kubeconfig=None).is_here(reference.job):
            return None
        found = job_here(reference.job, namespace)
        return side_of_job(found.job, reference, specs(found))

    async def side_of(cluster: Cluster, argument: str) -> Side:
        from finetune_cli.stored import read

        reference = Reference.of(argument)
        return side_here(argument) or side_of_job(read(await cluster.get(reference.job)), reference, {})

    async def on_both(cluster: Cluster) -> int:
        sides = (await side_of(cluster, first), await side_of(cluster, second))
        return execute(sides, different_tests, Output(output))

    def here() -> int | None:
        one, other = side_here(first), side_here(second)
        if one is None or other is None:
            return None
        for option, given in (("--context", context), ("--kubeconfig", kubeconfig)):
            if given:
                raise typer.BadParameter("neither result is on a cluster", param_hint=option)
        return execute((one, other), different_tests, Output(output))

    on_this_machine(here)
    on_cluster(on_both, where, hint=HINT)
