"""The commands for FineTuneJobs on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune_cli.output import Output, print_error

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

Namespace = Annotated[
    str | None,
    typer.Option("-n", "--namespace", help="Namespace; default: that of the context."),
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig; default: the current one.")]
Kubeconfig = Annotated[
    str | None,
    typer.Option("--kubeconfig", help="Kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the service account."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the FineTuneJob.")]

StageName = Literal["prepare", "train", "evaluate", "publish"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (submit, get, watch, logs, suspend, resume, cancel):
        app.command()(command)


def submit(
    manifests: Annotated[
        list[str], typer.Argument(metavar="FILE", help="YAML files with FineTuneJobs, or - for stdin.")
    ],
    *,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Watch the job afterwards, as `watch` does.")] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that another field manager has set.")
    ] = False,
    output: Annotated[
        Literal["text", "name", "json", "yaml"], typer.Option("-o", "--output", help="Output format.")
    ] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Check FineTuneJobs and apply them to a cluster.

    Problems are reported with file and line before anything is sent. Submitting the same file again changes nothing.
    """
    from finetune_api.failures import ExitCode
    from finetune_cli.submit import checked_files
    from finetune_cli.submit import submit as execute

    found = checked_files(manifests, namespace, watch)
    if found is None:
        raise typer.Exit(ExitCode.BAD_CONFIGURATION)
    _on_cluster(
        lambda cluster: execute(cluster, found, Output(output), watch, force_conflicts),
        namespace,
        context,
        kubeconfig,
    )


def get(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show one job in detail; default: list all.")
    ] = None,
    *,
    output: Annotated[
        Literal["text", "wide", "json", "yaml", "name"], typer.Option("-o", "--output", help="Output format.")
    ] = "text",
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="List all namespaces.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List FineTuneJobs, or show one in detail: stages, failure, comparison with the baseline, artifact."""
    from finetune_cli.get import get as execute

    if name and all_namespaces:
        raise typer.BadParameter("not allowed with NAME; use -n for the namespace of the job", param_hint="-A")
    _on_cluster(lambda cluster: execute(cluster, name, Output(output), all_namespaces), namespace, context, kubeconfig)


def watch(
    name: Name,
    *,
    output: Annotated[
        Literal["text", "json"],
        typer.Option("-o", "--output", help="Output format; json prints one document at the end."),
    ] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Watch a FineTuneJob until it finishes.

    Ctrl-C ends the command, not the job. Exit codes are those of `run`: 0 published, 1 rejected by a gate, otherwise
    that of the failed stage; 130 after Ctrl-C.
    """
    from finetune_cli.watch import watch as execute

    _on_cluster(lambda cluster: execute(cluster, name, Output(output)), namespace, context, kubeconfig)


def logs(
    name: Name,
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
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the log of the latest pod of a FineTuneJob."""
    from finetune_api.stage import Stage
    from finetune_cli.logs import Wanted
    from finetune_cli.logs import logs as execute

    wanted = Wanted(Stage(stage) if stage else None, attempt, worker)
    _on_cluster(lambda cluster: execute(cluster, name, wanted, follow, tail), namespace, context, kubeconfig)


def suspend(
    name: Name,
    *,
    output: Annotated[Literal["text", "name"], typer.Option("-o", "--output", help="Output format.")] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Suspend a FineTuneJob: its pods write a checkpoint, then end and free their GPUs."""
    from finetune_cli.change import suspend as execute

    _on_cluster(lambda cluster: execute(cluster, name, True, Output(output)), namespace, context, kubeconfig)


def resume(
    name: Name,
    *,
    output: Annotated[Literal["text", "name"], typer.Option("-o", "--output", help="Output format.")] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Resume a suspended FineTuneJob from its last checkpoint."""
    from finetune_cli.change import suspend as execute

    _on_cluster(lambda cluster: execute(cluster, name, False, Output(output)), namespace, context, kubeconfig)


def cancel(
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Delete the job even if it has finished.")] = False,
    output: Annotated[Literal["text", "name"], typer.Option("-o", "--output", help="Output format.")] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Stop and delete a FineTuneJob; its files in object storage are kept."""
    from finetune_cli.change import cancel as execute

    _on_cluster(lambda cluster: execute(cluster, name, force, Output(output)), namespace, context, kubeconfig)


def _on_cluster(
    command: Callable[[Cluster], Awaitable[int]], namespace: str | None, context: str | None, kubeconfig: str | None
) -> None:
    """Connect, run a command, and exit with its exit code."""
    from finetune_cli.cluster import Target, connected
    from finetune_cli.refusals import ClusterError

    async def execute() -> int:
        async with connected(Target(namespace, context, kubeconfig)) as cluster:
            return await command(cluster)

    try:
        code = asyncio.run(execute())
    except ClusterError as error:
        print_error(f"finetune: {error.message}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)
