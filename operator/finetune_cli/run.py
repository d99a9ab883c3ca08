"""``finetune run``: runs one job on this machine."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.secrets import references
from finetune_api.spec import FineTuneJobSpec, ResilienceSpec
from finetune_cli.dry_run import dry_run
from finetune_cli.local import Executor, LocalError, Machine, StateDirectory, home
from finetune_cli.local.jobs import known_job, manifest_path, moved_note, state_path
from finetune_cli.manifest import Change, ManifestError, load
from finetune_cli.output import Output, out, print_error, to_json, write
from finetune_cli.overrides import overridden, overrides_of
from finetune_cli.place import ThisMachine
from finetune_cli.result import document, exit_code, result_lines
from finetune_cli.screen import Screen, screen
from finetune_cli.view import of_run


def run(manifest: str, output: Output, fresh: bool, settings: Sequence[str] = (), dry: bool = False) -> int:
    """Run the job of a manifest, with the fields of ``--set``; ``dry`` only prepares it. Returns the exit code."""
    wanted = load_or_report(manifest, output, settings)
    if wanted is None:
        return ExitCode.BAD_CONFIGURATION
    source = manifest_path(manifest)
    try:
        if dry:
            known = known_job(home(), wanted, source)
            return dry_run(wanted, known.job.status if known else FineTuneJobStatus(), output)
        moved = moved_note(home(), wanted, source)
        with StateDirectory.locked(state_path(home(), wanted, source)) as state:
            state.record_manifest(source)
            job, code = _run(state, wanted, output, fresh, (*cluster_only(wanted.spec), *moved))
            if output is Output.JSON:
                write(to_json(document(job, logs(job, state), code)))
            else:
                write("\n".join(result_lines(job, ThisMachine(state))))
            return code
    except LocalError as error:
        print_error(f"finetune: {error.message}")
        if output is Output.JSON:
            write(to_json({"exitCode": int(error.exit_code), "errors": [{"message": error.message}]}))
        return error.exit_code


def load_or_report(
    manifest: str, output: Output, settings: Sequence[str] = (), change: Change = lambda document: document
) -> FineTuneJob | None:
    """The job of a manifest, with the fields of ``--set`` and then ``change``; None if it is invalid, after its
    problems were printed.
    """
    try:
        overrides = overrides_of(settings)
        return load(manifest, lambda document: change(overridden(document, overrides)))
    except ManifestError as error:
        problems = error.problems
        print_error(*map(str, problems))
        if output is Output.JSON:
            listed = [{"file": one.file, "line": one.line, "message": one.message} for one in problems]
            write(to_json({"exitCode": int(ExitCode.BAD_CONFIGURATION), "errors": listed}))
        return None


def _run(
    state: StateDirectory, wanted: FineTuneJob, output: Output, fresh: bool, notes: tuple[str, ...]
) -> tuple[FineTuneJob, int]:
    stream = out() if output is Output.TEXT else sys.stderr
    with screen(stream, quiet=output is Output.JSON) as shown:
        job = asyncio.run(_execute(state, wanted, shown, fresh, notes))
    return job, exit_code(job)


async def _execute(
    state: StateDirectory, wanted: FineTuneJob, shown: Screen, fresh: bool, notes: tuple[str, ...]
) -> FineTuneJob:
    """The finished or stopped job."""
    executor = Executor(
        state,
        wanted,
        lambda snapshot: shown.show(of_run(snapshot, notes)),
        machine=Machine.detect(),
        fresh=fresh,
    )
    received: list[int] = []

    def on_signal(number: int) -> None:
        # A terminal that closes sends SIGHUP twice. Only a second Ctrl-C asks for a stop without a checkpoint.
        at_once = number == signal.SIGINT and number in received
        received.append(number)
        executor.request_stop(at_once=at_once)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, int(number))
    return await executor.run()


def cluster_only(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """Notes about the parts of a spec that have no effect without a cluster."""
    notes = []
    if names := sorted(set(references(spec).values())):
        secrets = f"Secret {names[0]} is" if len(names) == 1 else f"Secrets {', '.join(names)} are"
        notes.append(f"secretRef works only on clusters: {secrets} not read; credentials come from the environment.")
    given, default = spec.resilience, ResilienceSpec()
    waiting = {
        "pendingTimeoutSeconds": given.pending_timeout_seconds != default.pending_timeout_seconds,
        "ttlSecondsAfterFinished": given.ttl_seconds_after_finished is not None,
    }
    if fields := [f"spec.resilience.{name}" for name, is_given in waiting.items() if is_given]:
        notes.append(f"{' and '.join(fields)} {'has' if len(fields) == 1 else 'have'} an effect only on clusters.")
    return tuple(notes)


def logs(job: FineTuneJob, state: StateDirectory) -> list[dict[str, Any]]:
    """The log files of the current revision."""
    return [
        {"revision": run.id.revision, "stage": run.id.stage, "attempt": run.id.attempt, "path": str(run.log)}
        for run in state.runs()
        if run.id.revision == job.status.revision and run.log.exists()
    ]
