"""``python -m finetune_operator --config settings.json``: run the operator."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path

from finetune_kube.patches.kubernetes import without_synchronous_client
from finetune_operator.logs import configure
from finetune_operator.settings import SettingsError, load


def main() -> int:
    """Run the operator; returns the exit code."""
    # PID 1 of a container ignores SIGTERM until it has a handler, and the imports take a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parser = argparse.ArgumentParser(prog="finetune_operator", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings file, as the chart writes it")
    options = parser.parse_args()
    try:
        settings = load(options.config)
    except SettingsError as error:
        print(f"finetune_operator: {error}", file=sys.stderr)  # noqa: T201
        return 64
    configure(settings.log_level)
    # Kopf is slow to import; invalid settings should fail at once.
    import uvloop

    without_synchronous_client()

    from finetune_operator.app import run
    from finetune_operator.cluster import NoCluster

    try:
        with suppress(asyncio.CancelledError):
            uvloop.run(run(settings))
    except NoCluster as error:
        print(f"finetune_operator: {error}", file=sys.stderr)  # noqa: T201
        return 64
    return 0


if __name__ == "__main__":
    sys.exit(main())
