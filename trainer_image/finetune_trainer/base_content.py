"""What a base model consists of, by content, so that a copy at another address is known to be the same model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

from finetune_api.spec import ModelSpec
from finetune_trainer.manifests import hash_files
from finetune_trainer.models import WEIGHTS, LocalModel, explained, read_config, repository, weight_files
from finetune_trainer.prepared import ModelContent

_VOCABULARY = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "source.spm",
    "target.spm",
    "*.model",
)
_SAVING = ("transformers_version", "_name_or_path")
"""Fields of config.json that say how it was saved, and not what the model computes."""
_SMALL_BYTES = 64 << 20


def content_of(model: ModelSpec, local: LocalModel) -> ModelContent | None:
    """The digests of a model. For weights that are only on the hub, it says their digests.

    Returns:
        None if the hub does not say them, and the weights are large.

    Raises:
        StageFailure: As `finetune_trainer.models.fetch_model`.
    """
    weights = _weights(model, local)
    if weights is None:
        return None
    config = {name: value for name, value in read_config(local.path, model.uri).items() if name not in _SAVING}
    names = sorted(
        path.name for path in local.path.iterdir() if any(fnmatchcase(path.name, one) for one in _VOCABULARY)
    )
    return ModelContent(
        weights=_digest(weights),
        config="sha256:" + sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        tokenizer=_digest((entry.path, entry.sha256) for entry in hash_files(local.path, names)),
    )


def _weights(model: ModelSpec, local: LocalModel) -> list[tuple[str, str]] | None:
    """The name and sha256 of each weight file."""
    names = sorted(path.name for path in weight_files(local.path))
    if not names:
        return _on_hub(model, local.revision)
    known = {entry.path: entry.sha256 for entry in local.files}
    return [(name, known.get(name) or _of_cached(local.path / name)) for name in names]


def _of_cached(file: Path) -> str:
    """The sha256 of a file. In the cache of the hub, a large one is a link to a file of that name."""
    name = file.resolve().name
    if file.is_symlink() and len(name) == 64 and set(name) <= set("0123456789abcdef"):
        return name
    return hash_files(file.parent, [file.name])[0].sha256


def _on_hub(model: ModelSpec, revision: str) -> list[tuple[str, str]] | None:
    from huggingface_hub import HfApi, hf_hub_download

    with explained(model, revision):
        info: Any = HfApi().model_info(repository(model.uri), revision=revision, files_metadata=True)
        listed = [
            one for one in info.siblings or () if "/" not in one.rfilename and fnmatchcase(one.rfilename, WEIGHTS)
        ]
        unknown = [one for one in listed if not one.lfs]
        if not listed or any(one.size is None or one.size > _SMALL_BYTES for one in unknown):
            return None
        found = {one.rfilename: str(one.lfs.sha256) for one in listed if one.lfs}
        for one in unknown:  # A small file has no digest there.
            found[one.rfilename] = _of_cached(
                Path(hf_hub_download(repository(model.uri), one.rfilename, revision=revision))
            )
    return sorted((name, digest) for name, digest in found.items() if not name.startswith("consolidated"))


def _digest(files: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"{name}\0{digest}\n" for name, digest in files)
    return "sha256:" + sha256(lines.encode()).hexdigest()
