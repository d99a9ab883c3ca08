"""What a base model consists of, by content, so that a copy at another address is known to be the same model."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from finetune_api.layout import WEIGHTS_INDEX
from finetune_api.spec import ModelSpec
from finetune_trainer.json_files import read_json_if_present
from finetune_trainer.manifests import hash_files
from finetune_trainer.models import WEIGHTS, LocalModel, explained, hub_token, read_config, repository, weight_files
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
    weights = None if model.endpoint else _weights(model, local)
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
        return _on_hub(model, local)
    known = {entry.path: entry.sha256 for entry in local.files}
    return [(name, known.get(name) or _of_cached(local.path / name)) for name in names]


def _of_cached(file: Path) -> str:
    """The sha256 of a file. In the cache of the hub, a large one is a link to a file of that name."""
    name = file.resolve().name
    if file.is_symlink() and len(name) == 64 and set(name) <= set("0123456789abcdef"):
        return name
    return hash_files(file.parent, [file.name])[0].sha256


def _on_hub(model: ModelSpec, local: LocalModel) -> list[tuple[str, str]] | None:
    """The same for weights that were not downloaded; None if the hub does not say the digest of a large file."""
    from huggingface_hub import HfApi, hf_hub_download

    name, revision = repository(model.uri), local.revision
    with explained(model, revision):
        info: Any = HfApi(token=hub_token(model)).model_info(name, revision=revision, files_metadata=True)
        files = {one.rfilename: one for one in info.siblings or ()}
        digests = {}
        for file in _weight_names(local.path, files):
            if file not in files:
                return None
            lfs, size = files[file].lfs, files[file].size
            if not lfs and (size is None or size > _SMALL_BYTES):
                return None
            # A small file is no LFS object.
            small = partial(hf_hub_download, name, file, revision=revision, token=hub_token(model))
            digests[file] = str(lfs.sha256) if lfs else _of_cached(Path(small()))
    return sorted(digests.items()) or None


def _weight_names(directory: Path, files: Collection[str]) -> Sequence[str]:
    """The names of the weight files that `weight_files` finds once they are downloaded."""
    index = read_json_if_present(directory / WEIGHTS_INDEX).get("weight_map")
    if isinstance(index, dict):
        return sorted({str(name) for name in index.values()})
    if "model.safetensors" in files:
        return ["model.safetensors"]
    return sorted(
        name for name in files if "/" not in name and fnmatchcase(name, WEIGHTS) and not name.startswith("consolidated")
    )


def _digest(files: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"{name}\0{digest}\n" for name, digest in files)
    return "sha256:" + sha256(lines.encode()).hexdigest()
