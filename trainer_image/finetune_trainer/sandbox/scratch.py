"""Folders of programs: measured while they run, and removed whatever they have made of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from finetune_trainer.sandbox import limits


def exceeded(folder: Path) -> str:
    """The limit that the files in ``folder`` exceed, in words; empty if there is none. Stops counting there."""
    size = count = 0
    folders = [str(folder)]
    while folders:
        # The program may delete, rename or close what is being counted.
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                count += 1
                if count > limits.FILES:
                    return f"{limits.FILES:,} files"
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                if size > limits.SCRATCH:
                    return f"{limits.SCRATCH >> 20} MiB of files"
    return ""


def remove(folder: Path) -> None:
    """Remove a folder, however deep it is and whatever the modes of its folders are; its programs have ended.

    What is in a folder moves up before the folder is removed, so a path never gets long.
    """
    with contextlib.suppress(FileNotFoundError):
        os.chmod(folder, 0o700)
        moved = 0
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                for inner in list(os.scandir(entry.path)):
                    if inner.is_dir(follow_symlinks=False):
                        # A folder that its owner cannot write to cannot be moved.
                        os.chmod(inner.path, 0o700)
                    moved += 1
                    os.rename(inner.path, os.path.join(folder, f".moved-{moved}"))
                os.rmdir(entry.path)
        os.rmdir(folder)
