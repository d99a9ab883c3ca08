"""The commands that show jobs, on a cluster or on this machine; `options` has the rule for which."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finetune_cli.options import (
    HINT,
    Context,
    Job,
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

StageName = Literal["prepare", "respond", "train", "evaluate", "publish"]
AllNamespaces = Annotated[bool, typer.Option("-A", "--all-namespaces", help="List all namespaces.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("list")(list_)
    for command in (get, history, watch, logs):
        app.command()(command)


def list_(
    *,
    output: TextOrJson = "text",
    all_namespaces: AllNamespaces = False,
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List jobs: phase, progress, score, verdict, age.

    With --local, the jobs of this machine and their manifests.
    """
    from finetune_cli.listing import list_cluster, list_here

    where = Where(namespace, context, kubeconfig, local)
    _check_all_namespaces(None, local, all_namespaces)
    if where.is_here(None):
        on_this_machine(lambda: list_here(namespace, Output(output)))
    on_cluster(lambda cluster: list_cluster(cluster, all_namespaces, Output(output)), where, hint=HINT)


def get(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB",
            help="Show one job in detail: name or manifest; default: list all.",
            autocompletion=complete_job,
        ),
    ] = None,
    *,
    output: Annotated[
        Literal["text", "wide", "json", "yaml", "name"], typer.Option("-o", "--output", help="Output format.")
    ] = "text",
    all_namespaces: AllNamespaces = False,
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show one job in detail, or list all as kubectl does.

    The details are stages, failure, comparison with the baseline, and artifact.
    """
    from finetune_cli.get import get as execute
    from finetune_cli.get import get_here
    from finetune_cli.here import job_here

    where = Where(namespace, context, kubeconfig, local)
    _check_all_namespaces(job, local, all_namespaces)
    if where.is_here(job):
        if job is None:
            raise typer.BadParameter("needs JOB; list all with finetune list --local", param_hint="--local")
        on_this_machine(lambda: get_here(job_here(job, namespace), Output(output)))
    on_cluster(lambda cluster: execute(cluster, job, Output(output), all_namespaces), where, hint=HINT)


def history(
    job: Job,
    *,
    output: TextOrJson = "text",
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the revisions of a job, and what changed.

    A line for each revision: phase, start, end, score, what changed in the spec, artifact.
    """
    from finetune_cli.here import job_here
    from finetune_cli.history import history_here, history_on_cluster

    where = Where(namespace, context, kubeconfig, local)
    if where.is_here(job):
        on_this_machine(lambda: history_here(job_here(job, namespace), Output(output)))
    on_cluster(lambda cluster: history_on_cluster(cluster, job, Output(output)), where, hint=HINT)


def watch(
    job: Job,
    *,
    output: Annotated[
        Literal["text", "json"],
        typer.Option("-o", "--output", help="Output format; json prints one document at the end."),
    ] = "text",
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Watch a job until it finishes.

    Ctrl-C ends the command, not the job. Exit codes are those of `run`: 0 published, 1 rejected by a gate,
    otherwise that of the failed stage; 130 after Ctrl-C.
    """
    from finetune_cli.here import job_here
    from finetune_cli.local_watch import watch_here
    from finetune_cli.watch import watch as execute

    where = Where(namespace, context, kubeconfig, local)
    if where.is_here(job):
        on_this_machine(lambda: watch_here(lambda: job_here(job, namespace), Output(output)))
    on_cluster(lambda cluster: execute(cluster, job, Output(output)), where, hint=HINT)


def logs(
    job: Job,
    *,
    stage: Annotated[StageName | None, typer.Option("--stage", help="Stage; default: the latest.")] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Attempt of the stage; default: the latest.")
    ] = None,
    worker: Annotated[int, typer.Option("--worker", min=0, help="Index of the training pod.")] = 0,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the log from stage to stage until the job finishes.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="Print only this number of lines from the end.")
    ] = None,
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the log of the latest stage of a job."""
    from finetune_api.stage import Stage
    from finetune_cli.here import job_here
    from finetune_cli.local_logs import logs_here
    from finetune_cli.logs import Wanted
    from finetune_cli.logs import logs as execute

    where = Where(namespace, context, kubeconfig, local)
    wanted = Wanted(Stage(stage) if stage else None, attempt, worker)
    if where.is_here(job):
        if worker:
            raise typer.BadParameter("a job on this machine has one worker, 0", param_hint="--worker")
        on_this_machine(lambda: logs_here(lambda: job_here(job, namespace), wanted, follow, tail))
    on_cluster(lambda cluster: execute(cluster, job, wanted, follow, tail), where, hint=HINT)


def _check_all_namespaces(job: str | None, local: bool, all_namespaces: bool) -> None:
    if job and all_namespaces:
        raise typer.BadParameter("not allowed with JOB; use -n for the namespace of the job", param_hint="-A")
    if local and all_namespaces:
        raise typer.BadParameter("not needed with --local, which lists all namespaces", param_hint="-A")
