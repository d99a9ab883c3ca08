"""The commands that speak to a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune_cli.output import Output, complain

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

Namespace = Annotated[
    str | None,
    typer.Option("-n", "--namespace", help="Namespace; left out, that of the kubeconfig's context."),
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig; left out, the current one.")]
Kubeconfig = Annotated[
    str | None,
    typer.Option("--kubeconfig", help="Kubeconfig file; left out, $KUBECONFIG, ~/.kube/config or the pod's rights."),
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
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on to watch the job, as `watch` does.")] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that somebody else has set.")
    ] = False,
    output: Annotated[
        Literal["text", "name", "json", "yaml"], typer.Option("-o", "--output", help="What to print of each job.")
    ] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Check FineTuneJobs and apply them to a cluster.

    What is wrong is said with file and line before anything is sent. Applying the same file again changes nothing.
    """
    from finetune_cli.submit import submit as carry_out

    _on_cluster(
        lambda cluster: carry_out(cluster, manifests, Output(output), watch, force_conflicts),
        namespace,
        context,
        kubeconfig,
    )


def get(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One job, in detail; left out, all.")] = None,
    *,
    output: Annotated[
        Literal["text", "wide", "json", "yaml", "name"], typer.Option("-o", "--output", help="How to print.")
    ] = "text",
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Jobs of all namespaces.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List FineTuneJobs, or show one in detail: stages, what went wrong, the comparison, the artifact."""
    from finetune_cli.get import get as carry_out

    if name and all_namespaces:
        raise typer.BadParameter("one job is in one namespace; name it with -n", param_hint="-A")
    _on_cluster(
        lambda cluster: carry_out(cluster, name, Output(output), all_namespaces), namespace, context, kubeconfig
    )


def watch(
    name: Name,
    *,
    output: Annotated[
        Literal["text", "json"], typer.Option("-o", "--output", help="json: one JSON document, at the end.")
    ] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Watch a FineTuneJob until it ends.

    Ctrl-C ends the watching and leaves the job alone. Exit codes are those of `run`: 0 published, 1 refused by a gate,
    otherwise by what failed; 130 after Ctrl-C.
    """
    from finetune_cli.watch import watch as carry_out

    _on_cluster(lambda cluster: carry_out(cluster, name, Output(output)), namespace, context, kubeconfig)


def logs(
    name: Name,
    *,
    stage: Annotated[StageName | None, typer.Option("--stage", help="The stage; default: the newest.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Which try; left out, the newest.")] = None,
    worker: Annotated[int, typer.Option("--worker", min=0, help="Which training pod.")] = 0,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on while the job runs, from stage to stage.")
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only so many lines of the end.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the log of a FineTuneJob's current or last pod."""
    from finetune_api.stage import Stage
    from finetune_cli.logs import Wanted
    from finetune_cli.logs import logs as carry_out

    wanted = Wanted(Stage(stage) if stage else None, attempt, worker)
    _on_cluster(lambda cluster: carry_out(cluster, name, wanted, follow, tail), namespace, context, kubeconfig)


def suspend(
    name: Name,
    *,
    output: Annotated[Literal["text", "name"], typer.Option("-o", "--output", help="What to print.")] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Hold a FineTuneJob: what runs writes a checkpoint and ends, and its GPUs are free."""
    from finetune_cli.change import suspend as carry_out

    _on_cluster(lambda cluster: carry_out(cluster, name, True, Output(output)), namespace, context, kubeconfig)


def resume(
    name: Name,
    *,
    output: Annotated[Literal["text", "name"], typer.Option("-o", "--output", help="What to print.")] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Let a suspended FineTuneJob go on from where it was."""
    from finetune_cli.change import suspend as carry_out

    _on_cluster(lambda cluster: carry_out(cluster, name, False, Output(output)), namespace, context, kubeconfig)


def cancel(
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Delete it even if it has finished.")] = False,
    output: Annotated[Literal["text", "name"], typer.Option("-o", "--output", help="What to print.")] = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """End a FineTuneJob for good and delete it; what lies in object storage stays."""
    from finetune_cli.change import cancel as carry_out

    _on_cluster(lambda cluster: carry_out(cluster, name, force, Output(output)), namespace, context, kubeconfig)


def _on_cluster(
    command: Callable[[Cluster], Awaitable[int]], namespace: str | None, context: str | None, kubeconfig: str | None
) -> None:
    """Run a command with a connection, and leave with its exit code."""
    from finetune_cli.cluster import Target, connected
    from finetune_cli.refusals import ClusterError

    async def carry_out() -> int:
        async with connected(Target(namespace, context, kubeconfig)) as cluster:
            return await command(cluster)

    try:
        code = asyncio.run(carry_out())
    except ClusterError as error:
        complain(f"finetune: {error.message}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)
