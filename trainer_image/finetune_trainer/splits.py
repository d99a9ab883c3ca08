"""The rows of the prepared data; `finetune_trainer.prepared` says what is in them.

They are read here, so that what only reads the report about them, such as a stage's host, needs no Arrow.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa


def open_split(directory: Path, split: str) -> pa.Table:
    """Memory-map one split; rows are read from disk as they are touched."""
    return pa.ipc.open_file(pa.memory_map(str(directory / f"{split}.arrow"))).read_all()
