"""Reads the rows of the prepared data, whose columns are documented in `finetune_trainer.prepared`.

It is a separate module, so that the host process, which reads only the report, does not import Arrow.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from finetune_api import layout


def open_split(directory: Path, split: str) -> pa.Table:
    """Memory-map one split; the operating system reads rows from disk on access."""
    return pa.ipc.open_file(pa.memory_map(str(directory / layout.split_file(split)))).read_all()
