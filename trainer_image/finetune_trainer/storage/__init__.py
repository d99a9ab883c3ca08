"""One API for object storage on ``file://``, ``s3://``, ``gs://`` and ``az://``.

Credentials come from the environment and from files only. Every error is a ``StageFailure`` whose message is one
sentence: it names the address and what to do, and contains no secrets.
"""

from finetune_trainer.storage.access import (
    check_writable,
    delete_tree,
    exists,
    last_modified,
    list_files,
    read_bytes,
    write_bytes,
)
from finetune_trainer.storage.errors import AlreadyExists
from finetune_trainer.storage.location import join
from finetune_trainer.storage.transfer import download_directory, download_file, localise, upload_directory

__all__ = [
    "AlreadyExists",
    "check_writable",
    "delete_tree",
    "download_directory",
    "download_file",
    "exists",
    "join",
    "last_modified",
    "list_files",
    "localise",
    "read_bytes",
    "upload_directory",
    "write_bytes",
]
