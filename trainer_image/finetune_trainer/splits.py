"""The rows of the prepared data; `finetune_trainer.prepared` says what is in them.

They are read here, so that what only reads the report about them, such as a stage's host, needs no Arrow.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from finetune_api import layout


def open_split(directory: Path, split: str) -> pa.Table:
    """Memory-map one split; rows are read from disk as they are touched."""
    return pa.ipc.open_file(pa.memory_map(str(directory / layout.split_file(split)))).read_all()
