"""Base models: download them, and identify them without loading their weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeGuard

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import ADAPTER_CONFIG, GENERATION_CONFIG, MODEL_CONFIG
from finetune_api.manifest import FileEntry
from finetune_api.spec import ModelSpec
from finetune_trainer import storage
from finetune_trainer.licenses import license_of
from finetune_trainer.manifests import hash_files
from finetune_trainer.model_failures import AdapterGiven, bad_model, failure_of_hub, no_weights
from finetune_trainer.prepared import ModelIdentity
from finetune_trainer.served import identity_of, write_stand_in
from finetune_trainer.storage.credentials import variables_for
from finetune_trainer.storage.location import parse
from finetune_trainer.storage.transfer import download_files

WEIGHTS = "*.safetensors"
_OTHERS = ("*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
_UNWANTED = ("*/*", "consolidated*")
"""Subdirectories contain other formats of a model; ``consolidated*`` files duplicate its weights."""
_NAMED_TEMPLATES = "additional_chat_templates/*.jinja"
"""The chat templates beside the default, in the one subdirectory that belongs to a tokenizer."""

_HF_SCHEME = "hf://"
_HEADER_SIZE_BYTES = 8
"""A safetensors file begins with the size of its JSON header, an unsigned 64-bit integer."""
_BUFFER_DTYPES = frozenset({"I64", "BOOL"})
_CLASS_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_WEIGHT_FILE = re.compile(r"[A-Za-z0-9_.-]{1,200}\.safetensors")
_MOST_POSITIONS = 1 << 31
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta"}
    | {"xlm-roberta-xl", "xmod"}
)
"""Model types whose position ids start after the padding index, so that the first embeddings are unused."""


@dataclass(frozen=True)
class LocalModel:
    """A model's local directory and its version: a commit of the hub, or ``sha256:<hex>`` over its files."""

    path: Path
    revision: str
    files: tuple[FileEntry, ...] = ()
    """Its files, if the version was computed from them."""


def fetch_model(model: ModelSpec, scratch: Path, *, weights: bool, revision: str | None = None) -> LocalModel:
    """Make a model available locally: configuration, tokenizer and safetensors weights, but never pickles.

    A ``file://`` model is used in place. An ``hf://`` model is downloaded to the cache of huggingface_hub if there is
    one (``HF_HOME`` or ``HF_HUB_CACHE``), otherwise to ``scratch``; ``HF_TOKEN``, ``HF_ENDPOINT`` and
    ``HF_HUB_OFFLINE`` apply. Any other model is downloaded with its weights even without ``weights``, because its
    revision is a digest of all files.

    Args:
        model: The model's address and revision.
        scratch: Directory for downloads; created when needed.
        weights: Whether the weights are needed.
        revision: The version that an earlier stage has resolved; overrides that of ``model``.

    Raises:
        StageFailure: NotFound, PermissionDenied, Unavailable; BadConfiguration when the directory is not a model or
            its files do not match ``revision``; otherwise as functions of `storage`.
    """
    if model.endpoint:
        return LocalModel(write_stand_in(scratch), identity_of(model).revision)
    if model.uri.startswith(_HF_SCHEME):
        return _fetch_from_hub(model, scratch, weights, revision)
    local = _fetch_stored(model.uri, scratch)
    if revision is not None and local.revision != revision:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The files of {model.uri} changed after the prepare stage: restore them, or put the changed model at a "
            "new address and set spec.model.uri to it",
        )
    return local


def identify_model(model: ModelSpec, local: LocalModel) -> ModelIdentity:
    """Identify a model by its configuration, the headers of its weights and its model card.

    Raises:
        StageFailure: BadConfiguration when the configuration or the weights are invalid; for weights that are only on
            the hub, as `fetch_model`.
    """
    if model.endpoint:
        return identity_of(model)
    config = read_config(local.path, model.uri)
    names = config.get("architectures") or [config.get("model_type")]
    if not isinstance(names, list) or not isinstance(names[0], str) or not _CLASS_NAME.fullmatch(names[0]):
        raise bad_model(f"config.json of {model.uri} has no architecture: add the field 'architectures' to it")
    return ModelIdentity(
        uri=model.uri,
        revision=local.revision,
        architecture=names[0],
        parameters=_count_parameters(model, local),
        max_positions=max_positions(config),
        license=license_of(local.path / "README.md"),
    )


def read_config(directory: Path, uri: str) -> dict[str, Any]:
    """Read ``config.json`` of a model.

    Args:
        directory: The model's local directory.
        uri: The model's address, for messages.

    Raises:
        StageFailure: BadConfiguration when the file is missing or not a JSON object.
    """
    try:
        return _read_object(directory / "config.json", uri)
    except FileNotFoundError:
        raise bad_model(f"{uri} has no config.json: set spec.model.uri to a model in the Hugging Face layout") from None


def read_generation_config(directory: Path, uri: str) -> dict[str, Any]:
    """Read ``generation_config.json`` of a model; empty if it has none.

    Args:
        directory: The model's local directory.
        uri: The model's address, for messages.

    Raises:
        StageFailure: BadConfiguration when the file is not a JSON object.
    """
    try:
        return _read_object(directory / GENERATION_CONFIG, uri)
    except FileNotFoundError:
        return {}


def _read_object(path: Path, uri: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise bad_model(f"{path.name} of {uri} is not valid JSON: save the model again with save_pretrained") from None
    if not isinstance(document, dict):
        raise bad_model(f"{path.name} of {uri} is not a JSON object: save the model again with save_pretrained")
    return document


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Maximum sequence length in tokens of a model with this configuration; None when it has no limit."""
    nested = config.get("text_config")
    for part in (nested if isinstance(nested, dict) else {}, config):
        found = next((value for key in _POSITION_KEYS if _is_count(value := part.get(key))), None)
        if found is None:
            continue
        if str(part.get("model_type")) in _OFFSET_POSITIONS:
            padding = part.get("pad_token_id", 1)
            is_index = isinstance(padding, int) and 0 <= padding < found - 1
            return max(1, found - (padding if is_index else 1) - 1)
        return found
    return None


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """Number of token embeddings of a model with this configuration; None if it does not say."""
    nested = config.get("text_config")
    for part in (nested if isinstance(nested, dict) else {}, config):
        size = part.get("vocab_size")
        if _is_count(size):
            return size
    return None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST_POSITIONS


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a local model: those in its index, or all if there is none; empty when any is missing.

    Raises:
        StageFailure: BadConfiguration when ``model.safetensors.index.json`` is invalid.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            # A path could lead out of the directory.
            if not names or not all(_WEIGHT_FILE.fullmatch(name) for name in names):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise bad_model(
                f"{index.name} of the model is invalid: save the model again with save_pretrained"
            ) from None
        files = [directory / name for name in names]
        return files if all(file.is_file() for file in files) else []
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    return sorted(file for file in directory.glob(WEIGHTS) if _wanted(file.name))


def count_parameters(file: Path) -> int:
    """Number of parameters in a safetensors file according to its header, without integer and boolean buffers.

    Raises:
        StageFailure: BadConfiguration when the file is invalid or truncated.
    """
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    broken = bad_model(f"{file.name} of the model is invalid or truncated: download or save the model again")
    try:
        header = parse_local_safetensors_file_metadata(file)
        data_bytes = max((tensor.data_offsets[1] for tensor in header.tensors.values()), default=0)
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(_HEADER_SIZE_BYTES), "little")
        # The library does not check the size of the file, so a truncated one would pass.
        complete = file.stat().st_size == _HEADER_SIZE_BYTES + header_bytes + data_bytes
        parameters = _parameters(header.parameter_count)
    except (SafetensorsParsingError, ValueError, TypeError, AttributeError, IndexError, RecursionError):
        # The library reports only some malformed headers as SafetensorsParsingError.
        raise broken from None
    # No data type has less than one bit for a parameter.
    if not complete or not 0 <= parameters <= 8 * data_bytes:
        raise broken
    return parameters


def _count_parameters(model: ModelSpec, local: LocalModel) -> int:
    files = weight_files(local.path)
    if files:
        return sum(count_parameters(file) for file in files)
    if not model.uri.startswith(_HF_SCHEME):
        raise no_weights(model.uri)
    from huggingface_hub import HfApi

    with explained(model, local.revision):
        found = HfApi(token=hub_token(model)).get_safetensors_metadata(repository(model.uri), revision=local.revision)
    return _parameters(found.parameter_count)


def _parameters(count_by_dtype: Mapping[Any, int]) -> int:
    return sum(count for dtype, count in count_by_dtype.items() if dtype not in _BUFFER_DTYPES)


def _fetch_from_hub(model: ModelSpec, scratch: Path, weights: bool, revision: str | None) -> LocalModel:
    name = repository(model.uri)
    # The library reads this variable at import; progress bars would clutter the log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants, snapshot_download

    shared = {"HF_HOME", "HF_HUB_CACHE"} & os.environ.keys() or Path(constants.HF_HUB_CACHE).is_dir()
    wanted = revision or model.revision
    cache = None if shared else scratch / "hub"
    download = partial(snapshot_download, name, revision=wanted, cache_dir=cache, token=hub_token(model))
    with explained(model, wanted):
        allowed = [*_OTHERS, *([WEIGHTS] if weights else [])]
        path = Path(download(allow_patterns=allowed, ignore_patterns=list(_UNWANTED)))
        if not weights:  # Only prepare reads the tokenizer of the model.
            download(revision=path.name, allow_patterns=_NAMED_TEMPLATES)
    if not (path / MODEL_CONFIG).is_file() and (path / ADAPTER_CONFIG).is_file():
        raise AdapterGiven(model.uri)
    read_config(path, model.uri)
    if weights and not weight_files(path):
        raise no_weights(model.uri)
    return LocalModel(path=path, revision=path.name)


def _fetch_stored(uri: str, scratch: Path) -> LocalModel:
    listed = storage.list_files(uri)
    if not listed:
        raise StageFailure(Reason.NOT_FOUND, f"There is no model at {uri}: correct spec.model.uri, or upload the model")
    files = [(path, size) for path, size in listed if _wanted(path)]
    names = [path for path, _ in files]
    if MODEL_CONFIG not in names:
        if ADAPTER_CONFIG in names:
            raise AdapterGiven(uri)
        raise bad_model(f"{uri} has no config.json: set spec.model.uri to a model in the Hugging Face layout")
    if not any(fnmatchcase(name, WEIGHTS) for name in names):
        raise no_weights(uri)
    location = parse(uri)
    if location.scheme == "file":
        path = location.path
    else:
        path = scratch / "stored"
        download_files(location, files, path)
    if not weight_files(path):
        raise bad_model(f"{uri} lacks weight files that model.safetensors.index.json lists: upload the model again")
    entries = hash_files(path, sorted(names))
    lines = [f"{entry.path}\0{entry.size}\0{entry.sha256}\n" for entry in entries]
    return LocalModel(path, "sha256:" + sha256("".join(lines).encode()).hexdigest(), entries)


def _wanted(path: str) -> bool:
    if fnmatchcase(path, _NAMED_TEMPLATES):
        return True
    return any(fnmatchcase(path, pattern) for pattern in (*_OTHERS, WEIGHTS)) and not any(
        fnmatchcase(path, pattern) for pattern in _UNWANTED
    )


def hub_token(model: ModelSpec) -> str | None:
    """The token of the Secret of a model; None if that of the environment applies."""
    return variables_for(model.uri).get("HF_TOKEN")


def repository(uri: str) -> str:
    """``owner/name`` of an hf:// address."""
    name = uri.removeprefix(_HF_SCHEME).strip("/")
    if name.count("/") != 1:
        raise bad_model(f"{uri} is not a valid address on the hub: set spec.model.uri to hf://owner/name")
    return name


@contextmanager
def explained(model: ModelSpec, revision: str) -> Iterator[None]:
    """Convert exceptions of huggingface_hub into a StageFailure that says what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except (httpx2.HTTPError, OSError, errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
        raise failure_of_hub(model.uri, revision, error) or error from None
    except errors.HFValidationError:
        raise bad_model(
            f"{model.uri} is not a valid address on the hub: set spec.model.uri to hf://owner/name"
        ) from None
