"""Base models: brought to this machine, and identified without loading their weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import ModelSpec
from finetune_trainer import storage
from finetune_trainer.manifests import hash_files
from finetune_trainer.prepared import ModelIdentity
from finetune_trainer.storage.location import parse
from finetune_trainer.storage.transfer import download_files

WEIGHTS = "*.safetensors"
_OTHERS = ("*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
_UNWANTED = ("*/*", "consolidated*")
"""Subdirectories hold other forms of a model, ``consolidated*`` the same weights once more."""

_HF_SCHEME = "hf://"
_HEADER_SIZE_BYTES = 8
"""A safetensors file begins with the size of its JSON header, an unsigned 64-bit integer."""
_BUFFER_DTYPES = frozenset({"I64", "BOOL"})
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta"}
    | {"xlm-roberta-xl", "xmod"}
)
"""Model types whose positions begin after the padding index, so that they know fewer than they have rows for."""


@dataclass(frozen=True)
class LocalModel:
    """A model's directory on this machine, and which version it is: a commit, or ``sha256:<hex>`` over its files."""

    path: Path
    revision: str


def fetch_model(model: ModelSpec, scratch: Path, *, weights: bool, revision: str | None = None) -> LocalModel:
    """Bring a model to this machine: configuration, tokenizer and, with ``weights``, its safetensors; never pickles.

    A ``file://`` model is used where it is. An ``hf://`` model goes to the cache of ``huggingface_hub`` when there is
    one (``HF_HOME`` or ``HF_HUB_CACHE``), else to ``scratch``; ``HF_TOKEN``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``
    count. All others are fetched whole whatever ``weights`` says, because their revision is a digest over every file.

    Args:
        model: What to fetch.
        scratch: Directory for what is downloaded; made when it is needed.
        weights: Whether the weights are needed.
        revision: The version that an earlier stage found, instead of the one that ``model`` names.

    Raises:
        StageFailure: NotFound, PermissionDenied, Unavailable, BadConfiguration when the directory is no model or is not
            ``revision`` any more, and what storage raises.
    """
    if model.uri.startswith(_HF_SCHEME):
        return _fetch_from_hub(model, scratch, weights, revision)
    local = _fetch_stored(model.uri, scratch)
    if revision is not None and local.revision != revision:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{model.uri} has other files than when the data was prepared with it: put them back, or give the changed "
            "model an address of its own",
        )
    return local


def identify_model(model: ModelSpec, local: LocalModel) -> ModelIdentity:
    """Say exactly which model this is, from its configuration and the headers of its weights.

    Raises:
        StageFailure: BadConfiguration when the configuration or the weights are unreadable; for weights that are still
            on the hub, what fetching raises.
    """
    config = read_config(local.path, model.uri)
    names = config.get("architectures") or [config.get("model_type")]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise _bad(f"config.json of {model.uri} names no architecture: add 'architectures' to it")
    return ModelIdentity(
        uri=model.uri,
        revision=local.revision,
        architecture=names[0],
        parameters=_count_parameters(model, local),
        max_positions=max_positions(config),
        license=_license(local.path / "README.md"),
    )


def read_config(directory: Path, uri: str) -> dict[str, Any]:
    """``config.json`` of a model.

    Raises:
        StageFailure: BadConfiguration when there is none, or it is not JSON.
    """
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except FileNotFoundError:
        raise _bad(f"{uri} has no config.json: give the address of a model in the Hugging Face layout") from None
    except ValueError:
        raise _bad(f"config.json of {uri} is not JSON: write it again") from None
    if not isinstance(config, dict):
        raise _bad(f"config.json of {uri} is not a JSON object: write it again")
    return config


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens of the longest sequence that a model with this configuration knows; None when it has no limit."""
    nested = config.get("text_config")
    for part in (nested if isinstance(nested, dict) else {}, config):
        found = next((value for key in _POSITION_KEYS if isinstance(value := part.get(key), int) and value > 0), None)
        if found is None:
            continue
        if part.get("model_type") in _OFFSET_POSITIONS:
            padding = part.get("pad_token_id", 1)
            return found - (padding if isinstance(padding, int) else 1) - 1
        return found
    return None


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model: those of its index, or else all. Empty when the weights are not here."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _bad(f"{index.name} of the model is not an index of safetensors: write it again") from None
        files = [directory / name for name in names]
        return files if all(file.is_file() for file in files) else []
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    return sorted(file for file in directory.glob(WEIGHTS) if _wanted(file.name))


def count_parameters(file: Path) -> int:
    """Parameters in a safetensors file, from its header; integer and boolean buffers do not count.

    Raises:
        StageFailure: BadConfiguration when the file is not a whole safetensors file.
    """
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    broken = _bad(f"{file.name} of the model is not a whole safetensors file: fetch or write it again")
    try:
        header = parse_local_safetensors_file_metadata(file)
        data_bytes = max((tensor.data_offsets[1] for tensor in header.tensors.values()), default=0)
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(_HEADER_SIZE_BYTES), "little")
        # The library does not check the size of the file, so a truncated one would pass.
        whole = file.stat().st_size == _HEADER_SIZE_BYTES + header_bytes + data_bytes
    except (SafetensorsParsingError, ValueError, TypeError, AttributeError, IndexError, RecursionError):
        # The library reports only some malformed headers as SafetensorsParsingError.
        raise broken from None
    if not whole:
        raise broken
    return _parameters(header.parameter_count)


def _count_parameters(model: ModelSpec, local: LocalModel) -> int:
    files = weight_files(local.path)
    if files:
        return sum(count_parameters(file) for file in files)
    if not model.uri.startswith(_HF_SCHEME):
        raise _no_weights(model.uri)
    from huggingface_hub import HfApi

    with _explained(model, local.revision):
        found = HfApi().get_safetensors_metadata(_repository(model.uri), revision=local.revision)
    return _parameters(found.parameter_count)


def _parameters(count_by_dtype: Mapping[Any, int]) -> int:
    return sum(count for dtype, count in count_by_dtype.items() if dtype not in _BUFFER_DTYPES)


def _fetch_from_hub(model: ModelSpec, scratch: Path, weights: bool, revision: str | None) -> LocalModel:
    repository = _repository(model.uri)
    # Progress bars are for terminals; the library reads this when it is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants, snapshot_download

    shared = {"HF_HOME", "HF_HUB_CACHE"} & os.environ.keys() or Path(constants.HF_HUB_CACHE).is_dir()
    wanted = revision or model.revision
    with _explained(model, wanted):
        path = Path(
            snapshot_download(
                repository,
                revision=wanted,
                cache_dir=None if shared else scratch / "hub",
                allow_patterns=[*_OTHERS, *([WEIGHTS] if weights else [])],
                ignore_patterns=list(_UNWANTED),
            )
        )
    read_config(path, model.uri)
    if weights and not weight_files(path):
        raise _no_weights(model.uri)
    return LocalModel(path=path, revision=path.name)


def _fetch_stored(uri: str, scratch: Path) -> LocalModel:
    listed = storage.list_files(uri)
    if not listed:
        raise StageFailure(Reason.NOT_FOUND, f"No model is at {uri}: correct spec.model.uri, or put the model there")
    files = [(path, size) for path, size in listed if _wanted(path)]
    names = [path for path, _ in files]
    if "config.json" not in names:
        raise _bad(f"{uri} has no config.json: give the address of a model in the Hugging Face layout")
    if not any(fnmatchcase(name, WEIGHTS) for name in names):
        raise _no_weights(uri)
    location = parse(uri)
    if location.scheme == "file":
        path = location.path
    else:
        path = scratch / "stored"
        download_files(location, files, path)
    if not weight_files(path):
        raise _bad(f"{uri} lacks weight files that its model.safetensors.index.json names: upload the model again")
    lines = [f"{entry.path}\0{entry.size}\0{entry.sha256}\n" for entry in hash_files(path, sorted(names))]
    return LocalModel(path=path, revision="sha256:" + sha256("".join(lines).encode()).hexdigest())


def _wanted(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in (*_OTHERS, WEIGHTS)) and not any(
        fnmatchcase(path, pattern) for pattern in _UNWANTED
    )


def _repository(uri: str) -> str:
    repository = uri.removeprefix(_HF_SCHEME).strip("/")
    if repository.count("/") != 1:
        raise _bad(f"{uri} is not a model on the hub: write it as hf://owner/name")
    return repository


@contextmanager
def _explained(model: ModelSpec, revision: str) -> Iterator[None]:
    """Turn what ``huggingface_hub`` raises into a StageFailure that tells what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except (httpx2.HTTPError, OSError, errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
        raise _hub_failure(model.uri, revision, error) or error from None
    except errors.HFValidationError:
        raise _bad(f"{model.uri} is not a model on the hub: write it as hf://owner/name") from None


def _hub_failure(uri: str, revision: str, error: Exception) -> StageFailure | None:
    """The failure for what ``huggingface_hub`` raised; None when it is not about the hub."""
    import httpx2
    from huggingface_hub import errors

    failure: StageFailure | None = None
    if isinstance(error, errors.LocalEntryNotFoundError):
        # It asked the hub, got this cause, and then looked into the cache in vain.
        error = error.__cause__ if isinstance(error.__cause__, Exception) else errors.OfflineModeIsEnabled()
    match error:
        case errors.RevisionNotFoundError():
            failure = StageFailure(
                Reason.NOT_FOUND, f"{uri} has no branch, tag or commit '{revision}': correct spec.model.revision"
            )
        case errors.HfHubHTTPError():
            failure = _refused(uri, error)
        case errors.NotASafetensorsRepoError():
            failure = _no_weights(uri)
        case errors.SafetensorsParsingError():
            failure = _bad(f"The weights of {uri} on the hub are no readable safetensors: choose another model")
        case errors.OfflineModeIsEnabled():
            failure = StageFailure(
                Reason.NOT_FOUND,
                f"{uri} at '{revision}' is not whole in the cache and HF_HUB_OFFLINE forbids to fetch it: fill the "
                "cache that HF_HOME names, or unset HF_HUB_OFFLINE",
            )
        case httpx2.HTTPError():
            failure = StageFailure(
                Reason.UNAVAILABLE,
                f"The hub could not be reached for {uri}: check the network, and HF_ENDPOINT if it is set",
            )
    return failure


def _refused(uri: str, error: Any) -> StageFailure:
    from huggingface_hub import errors

    status: int = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return StageFailure(
            Reason.PERMISSION_DENIED,
            f"{uri} is gated: accept its terms on the hub, and set HF_TOKEN to a token of the account that did",
        )
    if status == 404 or error.response.headers.get("X-Error-Code") == "RepoNotFound":
        return StageFailure(
            Reason.NOT_FOUND,
            f"{uri} is not on the hub, or is private: correct spec.model.uri, or set HF_TOKEN to a token that may read "
            "it",
        )
    if status in (401, 403):
        return StageFailure(
            Reason.PERMISSION_DENIED,
            f"The hub refuses to show {uri} (HTTP {status}): correct spec.model.uri, or set HF_TOKEN to a token that "
            "may read it",
        )
    if status >= 500 or status in (408, 429):
        return StageFailure(
            Reason.UNAVAILABLE, f"The hub answered HTTP {status} when asked for {uri}: look at its health, or try later"
        )
    return _bad(f"The hub did not accept the request for {uri} (HTTP {status}): check spec.model and HF_ENDPOINT")


def _no_weights(uri: str) -> StageFailure:
    return _bad(f"{uri} has no weights as *.safetensors, and others are not loaded: convert them with save_pretrained")


def _license(readme: Path) -> str | None:
    """The licence in the front matter of a model card; None when the card or its front matter is absent or invalid."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        license_id = (metadata_load(readme) or {}).get("license")
    except (FileNotFoundError, ValueError, YAMLError, RecursionError):
        return None
    return license_id if isinstance(license_id, str) else None


def _bad(message: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, message)
