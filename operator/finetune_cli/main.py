"""The ``finetune`` command. Each command imports its heavy dependencies itself."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finetune_cli import advise_command, commands, job_commands, model_commands
from finetune_cli.options import Settings, TextOrJson
from finetune_cli.output import Output, program

app = typer.Typer(
    name="finetune",
    help="Fine-tune language models from FineTuneJob manifests, on this machine or on a cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"finetune {version('finetune-operator')}")
        except PackageNotFoundError:
            typer.echo("finetune (not installed)")
        raise typer.Exit


@app.callback()
def finetune(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune language models from FineTuneJob manifests, on this machine or on a cluster."""


@app.command()
def run(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="YAML file with a FineTuneJob, or - for stdin.")],
    output: TextOrJson = "text",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a new revision even if this spec was run before.")
    ] = False,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Only check data and model, and show what training would need; store nothing."),
    ] = False,
    settings: Settings = None,
) -> None:
    """Run a job on this machine.

    The stages are prepare, train, evaluate and publish, with respond before train if a teacher generates answers.
    Ctrl-C stops after a checkpoint; the same command resumes.
    State and logs are in $FINETUNE_HOME, by default ~/.local/state/finetune. Exit codes: 0 published, 1 rejected by
    a gate, 2 wrong options, 64 invalid manifest, 69 hub, storage or endpoint unreachable for five minutes, 75
    already running, 130 stopped, otherwise that of the failed stage.
    """
    from finetune_cli.run import run as execute

    if dry and fresh:
        raise typer.BadParameter("not allowed with --dry-run", param_hint="--fresh")
    raise typer.Exit(execute(manifest, Output(output), fresh, settings or (), dry))


@app.command()
def lint(
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE|DIRECTORY", help="YAML files, directories of them, or - for stdin.")
    ],
    output: TextOrJson = "text",
    settings: Settings = None,
) -> None:
    """Check manifests without a cluster.

    Reports what the API server would reject, with file and line. Objects of other kinds are skipped. Exit codes: 0
    valid, 64 invalid.
    """
    from finetune_cli.lint import lint as execute

    raise typer.Exit(execute(paths, Output(output), settings or ()))


advise_command.register(app)
job_commands.register(app)
model_commands.register(app)


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data file, directory, pattern or address.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Address or directory of the base model; default: a small one.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("-f", "--file", help="Manifest to write; default: a file with the name of the data.")
    ] = None,
) -> None:
    """Write a commented manifest for a data file.

    Detects its format, its columns and the task. An existing file is not overwritten. Needs the extra `data` or
    `trainer`.
    """
    from finetune_cli.init import init as execute
    from finetune_cli.options import on_this_machine

    on_this_machine(lambda: execute(data, model, file))


commands.register(app)


@app.command()
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the completion script of a shell.

    bash: add `source <(finetune completion bash)` to ~/.bashrc. zsh: add `source <(finetune completion zsh)` to
    ~/.zshrc, after compinit. fish: finetune completion fish > ~/.config/fish/completions/finetune.fish.
    """
    from finetune_cli.completion import script

    typer.echo(script(shell))


def main() -> None:
    """Entry point of ``finetune`` and ``kubectl-finetune``."""
    from finetune_cli.completion import PROGRAM, is_asked, prepare

    if is_asked():
        prepare()
        app(prog_name=PROGRAM)
    app(prog_name=program())


if __name__ == "__main__":
    main()
