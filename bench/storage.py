"""Storage speed: 512 MiB to and from a local versitygw, as one file and as a checkpoint, in alternation with boto3.

``python -m bench.storage`` prints one JSON line for each figure. A figure is the median of the repetitions. A ratio is
the median of the ratios of neighbouring runs, so that a busy machine slows down both sides.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig

from finetune_trainer import storage
from finetune_trainer.checkpoints.upload import CheckpointUploader, SavedCheckpoint
from tests.s3 import S3Server, s3_server

MIB = 1 << 20
PART = 16 * MIB
AT_ONCE = 8
SHARDS = 4
"""Files of a checkpoint: model and optimizer of two ranks."""


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-storage-") as folder, s3_server(Path(folder, "s3")) as server:
        os.environ.update(server.environment)
        server.make_bucket("bucket")
        source = Path(folder, "source")
        source.mkdir()
        _fill(source / "data", arguments.mebibytes)
        measure(server, source, Path(folder, "target"), arguments.repeat)
        checkpoint = Path(folder, "checkpoint")
        for number in range(SHARDS):
            path = checkpoint / "global_step1" / f"shard{number}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            _fill(path, arguments.mebibytes // SHARDS)
        measure_checkpoint(server, checkpoint, arguments.repeat)


def measure(server: S3Server, source: Path, target: Path, repeat: int) -> None:
    """Upload and download the file in ``source`` ``repeat`` times with each client, in alternation."""
    mebibytes = (source / "data").stat().st_size / MIB
    digest = _sha256(source / "data")
    uploads: dict[str, Callable[[], object]] = {
        "finetune": lambda: storage.upload_directory(source, "s3://bucket/ours"),
    }
    downloads: dict[str, Callable[[], object]] = {
        "finetune": lambda: storage.download_file("s3://bucket/ours/data", target),
    }
    uploads["boto3"], downloads["boto3"] = _boto3_calls(server, source / "data", target)
    for direction, calls in (("upload", uploads), ("download", downloads)):
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(repeat):
            for name, call in list(calls.items())[:: 1 if turn % 2 == 0 else -1]:
                target.unlink(missing_ok=True)
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
                if direction == "download" and _sha256(target) != digest:
                    raise RuntimeError(f"{name} downloaded different bytes than it uploaded")
        for name, taken in seconds.items():
            _print(f"storage_{direction}_{name}", mebibytes / statistics.median(taken), "MiB/s", taken)
        ratios = [theirs / ours for ours, theirs in zip(seconds["finetune"], seconds["boto3"], strict=True)]
        _print(f"storage_{direction}_over_boto3", statistics.median(ratios), "ratio", ratios)


def measure_checkpoint(server: S3Server, source: Path, repeat: int) -> None:
    """Store a checkpoint with digests and manifest, and remove the previous one. boto3 only uploads the files."""
    client, config = _boto3(server)
    files = [path for path in source.rglob("*") if path.is_file()]
    mebibytes = sum(path.stat().st_size for path in files) / MIB
    seconds: dict[str, list[float]] = {"finetune": [], "boto3": []}
    for turn in range(repeat):
        # The uploader deletes the local files after the upload.
        scratch = shutil.copytree(source, source.with_name("saved"), copy_function=os.link)
        busy = source.with_name("busy")
        calls: dict[str, Callable[[], object]] = {
            "finetune": partial(_store_checkpoint, SavedCheckpoint(turn + 1, scratch, {}, keep_also=None), busy),
            "boto3": lambda: [
                client.upload_file(str(path), "bucket", f"theirs/{path.name}", Config=config) for path in files
            ],
        }
        for name, call in list(calls.items())[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    for name, taken in seconds.items():
        _print(f"storage_checkpoint_{name}", mebibytes / statistics.median(taken), "MiB/s", taken)
    ratios = [theirs / ours for ours, theirs in zip(seconds["finetune"], seconds["boto3"], strict=True)]
    _print("storage_checkpoint_over_boto3", statistics.median(ratios), "ratio", ratios)


def _store_checkpoint(saved: SavedCheckpoint, busy: Path) -> None:
    uploader = CheckpointUploader(
        "s3://bucket/checkpoints", keep=1, worker=0, workers=1, busy=busy, on_complete=lambda *_: None
    )
    uploader.start()
    uploader.submit(saved)
    uploader.drain()
    if uploader.failure:
        raise uploader.failure


def _boto3(server: S3Server) -> tuple[Any, TransferConfig]:
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=AT_ONCE)
    return boto3.client("s3", endpoint_url=server.endpoint), config


def _boto3_calls(server: S3Server, source: Path, target: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """The same operations with boto3: upload with the sha256 that a manifest needs, and download."""
    client, config = _boto3(server)

    def upload() -> None:
        client.upload_file(str(source), "bucket", "theirs/data", Config=config)
        _sha256(source)

    def download() -> None:
        client.download_file("bucket", "theirs/data", str(target), Config=config)

    return upload, download


def _fill(path: Path, mebibytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MIB))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print(name: str, value: float, unit: str, runs: list[float]) -> None:
    spread = [round(min(runs), 3), round(max(runs), 3)]
    figure = {"name": name, "value": round(value, 3), "unit": unit, "runs": len(runs), "spread": spread}
    print(json.dumps(figure | {"spread_unit": "ratio" if unit == "ratio" else "s"}), flush=True)


if __name__ == "__main__":
    main()
