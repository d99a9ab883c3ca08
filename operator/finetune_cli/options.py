"""Options that several commands share, and the one rule for where the job of a command is.

The path of a manifest means the job that ``finetune run`` has run from it on this machine. A name means a job on the
cluster of the kubeconfig, or with ``--local`` one on this machine. A command without an argument lists the cluster, or
with ``--local`` this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune_cli.output import print_error

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="Namespace; default: that of the context.")]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig; default: the current one.")]
Kubeconfig = Annotated[
    str | None,
    typer.Option("--kubeconfig", help="Kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the service account."),
]
Local = Annotated[
    bool, typer.Option("--local", help="Jobs that `finetune run` has run on this machine, instead of the cluster.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set a field, such as training.epochs=1; can be repeated."),
]
TextOrJson = Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="Output format.")]


def complete_job(context: typer.Context, incomplete: str) -> list[str]:
    """The names of local jobs after ``--local``; otherwise the shell completes the path of a manifest."""
    from finetune_cli.completion import job_names

    return job_names(incomplete) if context.params.get("local") else []


Job = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="Name of a job on the cluster (with --local on this machine), or manifest of a local one.",
        autocompletion=complete_job,
    ),
]

HINT = "For jobs of this machine, add --local."


@dataclass(frozen=True)
class Where:
    """The options that say where a job is."""

    namespace: str | None
    context: str | None
    kubeconfig: str | None
    local: bool = False

    def is_here(self, argument: str | None) -> bool:
        """Whether a command works on this machine.

        Raises:
            typer.BadParameter: The options contradict each other.
        """
        from finetune_cli.local.jobs import is_path

        here = self.local or (argument is not None and is_path(argument))
        for option, value in (("--context", self.context), ("--kubeconfig", self.kubeconfig)):
            if here and value:
                what = "--local" if self.local else f"{argument}, the manifest of a job on this machine"
                raise typer.BadParameter(f"not allowed with {what}", param_hint=option)
        return here


def on_cluster(command: Callable[[Cluster], Awaitable[int]], where: Where, *, hint: str = "") -> None:
    """Connect, run a command, and exit with its exit code; ``hint`` follows the error if there is no cluster."""
    from finetune_cli.cluster import NoCluster, Target, connected
    from finetune_cli.local import LocalError
    from finetune_cli.refusals import ClusterError

    async def execute() -> int:
        async with connected(Target(where.namespace, where.context, where.kubeconfig)) as cluster:
            return await command(cluster)

    try:
        code = asyncio.run(execute())
    except ClusterError as error:
        print_error(f"finetune: {error.message}" + (f" {hint}" if hint and isinstance(error, NoCluster) else ""))
        code = error.exit_code
    except LocalError as error:
        print_error(f"finetune: {error.message}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


def on_this_machine(command: Callable[[], int | None]) -> None:
    """Run a command, and exit with its exit code; return if there is none, because it needs the cluster."""
    from finetune_cli.local import LocalError

    try:
        code = command()
    except LocalError as error:
        print_error(f"finetune: {error.message}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    if code is not None:
        raise typer.Exit(code)
