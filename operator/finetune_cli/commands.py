"""The commands that change FineTuneJobs on a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finetune_cli.options import Context, Kubeconfig, Namespace, Settings, Where, on_cluster
from finetune_cli.output import Output


def _name(argument: str) -> str:
    """The argument, if it is a name.

    Raises:
        typer.BadParameter: It is the path of a manifest, which means a job of this machine.
    """
    from finetune_cli.local.jobs import is_path

    if is_path(argument):
        raise typer.BadParameter(
            f"{argument} is no name of a job on a cluster; a job on this machine is stopped with Ctrl-C, and continued "
            "with finetune run"
        )
    return argument


Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the FineTuneJob on the cluster.", callback=_name)]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (submit, suspend, resume, cancel):
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
    settings: Settings = None,
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

    found = checked_files(manifests, namespace, watch, settings or ())
    if found is None:
        raise typer.Exit(ExitCode.BAD_CONFIGURATION)
    on_cluster(
        lambda cluster: execute(cluster, found, Output(output), watch, force_conflicts),
        Where(namespace, context, kubeconfig),
    )


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

    on_cluster(lambda cluster: execute(cluster, name, True, Output(output)), Where(namespace, context, kubeconfig))


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

    on_cluster(lambda cluster: execute(cluster, name, False, Output(output)), Where(namespace, context, kubeconfig))


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

    on_cluster(lambda cluster: execute(cluster, name, force, Output(output)), Where(namespace, context, kubeconfig))
