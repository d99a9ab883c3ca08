"""Base models: the files that belong to one, its identity, and invalid models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import ModelSpec
from finetune_trainer.models import (
    count_parameters,
    fetch_model,
    identify_model,
    max_positions,
    read_generation_config,
    weight_files,
)

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 4096}


def a_model(directory: Path, config: dict[str, Any] | None = None) -> ModelSpec:
    """Write a model of 12 parameters and a buffer of 3 position ids."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (directory / "tokenizer.json").write_text("{}")
    tensors = {"w": np.zeros((3, 4), np.float16), "position_ids": np.zeros(3, np.int64)}
    save_file(tensors, str(directory / "model.safetensors"))
    return ModelSpec(uri=directory.as_uri())


def failure_of(model: ModelSpec, scratch: Path, revision: str | None = None) -> StageFailure:
    with pytest.raises(StageFailure) as failure:
        identify_model(model, fetch_model(model, scratch, weights=True, revision=revision))
    return failure.value


def test_identity_comes_from_configuration_weight_headers_and_model_card(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nlicense: no\n")
    identity = identify_model(model, fetch_model(model, tmp_path / "scratch", weights=False))
    assert identity.architecture == "LlamaForCausalLM"
    assert identity.parameters == 12
    assert identity.max_positions == 4096
    assert identity.license == "apache-2.0"
    assert identity.revision.startswith("sha256:")


def test_revision_depends_on_the_files_of_the_model_only(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m")
    before = fetch_model(model, tmp_path / "scratch", weights=False)
    assert before.path == tmp_path / "m"
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"a pickle")
    (tmp_path / "m" / "consolidated.safetensors").write_bytes(b"a duplicate")
    (tmp_path / "m" / "onnx").mkdir()
    (tmp_path / "m" / "onnx" / "config.json").write_text("{}")
    assert fetch_model(model, tmp_path / "scratch", weights=True, revision=before.revision) == before
    tensors = {"w": np.ones((3, 4), np.float16), "position_ids": np.zeros(3, np.int64)}
    save_file(tensors, str(tmp_path / "m" / "model.safetensors"))
    failure = failure_of(model, tmp_path / "scratch", before.revision)
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message == (
        f"The files of {model.uri} changed after the prepare stage: restore them, or put the changed model at a new "
        "address and set spec.model.uri to it"
    )


def test_revision_depends_on_every_chat_template(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m")
    before = fetch_model(model, tmp_path / "scratch", weights=False)
    template = tmp_path / "m" / "additional_chat_templates" / "tool_use.jinja"
    template.parent.mkdir()
    template.write_text("{{ tools }}")
    assert fetch_model(model, tmp_path / "scratch", weights=False).revision != before.revision


def test_shards_are_those_in_the_index(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m")
    for shard in ("model-1", "model-2", "other"):
        save_file({shard: np.zeros(5, np.float32)}, str(tmp_path / "m" / f"{shard}.safetensors"))
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(tmp_path / "m")] == ["model-1.safetensors", "model-2.safetensors"]
    assert identify_model(model, fetch_model(model, tmp_path / "s", weights=True)).parameters == 10
    (tmp_path / "m" / "model-2.safetensors").unlink()
    assert failure_of(model, tmp_path / "s").message == (
        f"{model.uri} lacks weight files that model.safetensors.index.json lists: upload the model again"
    )


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_truncated_weights_are_rejected(tmp_path: Path, cut: int) -> None:
    model = a_model(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    assert failure_of(model, tmp_path / "s").message == (
        "model.safetensors of the model is invalid or truncated: download or save the model again"
    )
    with pytest.raises(StageFailure):
        count_parameters(weights)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"w": {}}',
        b'{"w": []}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": 8}}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": []}}',
        b'{"w": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, "8"]}}',
        b'{"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}',
    ],
)
def test_malformed_safetensors_headers_are_rejected(tmp_path: Path, header: bytes) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(StageFailure, match="is invalid or truncated"):
        count_parameters(weights)


def test_scalars_and_empty_tensors_are_counted(tmp_path: Path) -> None:
    tensors = {"scalar": np.ones((), np.float32), "empty": np.zeros((0, 4), np.float32), "w": np.zeros(3, np.float32)}
    save_file(tensors, str(tmp_path / "model.safetensors"))
    assert count_parameters(tmp_path / "model.safetensors") == 4


@pytest.mark.parametrize(
    ("card", "license_id"),
    [
        (b"---\r\nlicense: 'mit' # a comment\r\n---\r\n", "mit"),
        (b"\xef\xbb\xbf---\nlicense: mit\n---\n", "mit"),
        (b"# No front matter\nlicense: mit\n", None),
        (b"---\n---\n", None),
        (b"---\n- license: mit\n---\n", None),
        (b"---\nlicense: [mit, apache-2.0]\n---\n", None),
        (b"---\nlicense: mit\nlanguage: [en\n---\n", None),
        (b"---\nlicense: mit\n\xff\n---\n", None),
        (b"---\n" + b"[" * 100_000 + b"\n---\n", None),
        (b"---\nlicense: &a [*a]\n---\n", None),
        (b"---\nlicense: !!timestamp x\n---\n", None),
        (b'---\nlicense: !!int ""\n---\n', None),
        (b'---\nlicense: "\\ud800"\n---\n', None),
        (b'---\nlicense: "\\e[31mred"\n---\n', None),
    ],
)
def test_license_comes_from_valid_front_matter_only(tmp_path: Path, card: bytes, license_id: str | None) -> None:
    model = a_model(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_bytes(card)
    assert identify_model(model, fetch_model(model, tmp_path / "s", weights=False)).license == license_id


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("config.json", "has no config.json: set spec.model.uri to a model in the Hugging Face layout"),
        (
            "model.safetensors",
            "has no *.safetensors weights, the only supported format: convert them with save_pretrained",
        ),
    ],
)
def test_incomplete_models_are_rejected(tmp_path: Path, name: str, sentence: str) -> None:
    model = a_model(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    failure = failure_of(model, tmp_path / "s")
    assert (failure.reason, failure.message) == (Reason.BAD_CONFIGURATION, f"{model.uri} {sentence}")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").rename(tmp_path / "m" / "adapter_config.json")
    assert failure_of(model, tmp_path / "s").message == (
        f"{model.uri} is an adapter, not a whole model: set spec.model.uri to its base model, and "
        "spec.model.adapter.uri to this address if finetune has published it"
    )


def test_invalid_configurations_are_rejected(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", {"hidden_size": 4})
    message = f"config.json of {model.uri} has no architecture: add the field 'architectures' to it"
    assert failure_of(model, tmp_path / "s").message == message
    (tmp_path / "m" / "config.json").write_text("{")
    message = f"config.json of {model.uri} is not valid JSON: save the model again with save_pretrained"
    assert failure_of(model, tmp_path / "s").message == message


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\0"])
def test_hostile_configurations_are_rejected(tmp_path: Path, content: str) -> None:
    model = a_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(content)
    message = f"config.json of {model.uri} is not valid JSON: save the model again with save_pretrained"
    assert failure_of(model, tmp_path / "s").message == message


@pytest.mark.parametrize(
    ("content", "problem"), [("[" * 100_000, "not valid JSON"), ("[]", "not a JSON object"), ("\0", "not valid JSON")]
)
def test_hostile_generation_configurations_are_rejected(tmp_path: Path, content: str, problem: str) -> None:
    assert read_generation_config(tmp_path, "hf://a/b") == {}
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(StageFailure) as failure:
        read_generation_config(tmp_path, "hf://a/b")
    assert failure.value.reason is Reason.BAD_CONFIGURATION
    assert failure.value.message == (
        f"generation_config.json of hf://a/b is {problem}: save the model again with save_pretrained"
    )


@pytest.mark.parametrize("name", ["\ud800", "\x1b[31mLlama", "x" * 5000, "", 7, [], None])
def test_an_architecture_that_is_not_a_class_name_is_rejected(tmp_path: Path, name: object) -> None:
    failure = failure_of(a_model(tmp_path / "m", {"architectures": [name]}), tmp_path / "s")
    assert failure.message.endswith("has no architecture: add the field 'architectures' to it")


@pytest.mark.parametrize(
    "index",
    [
        "[" * 100_000,
        "[]",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"w": null}}',
        '{"weight_map": {"w": 1, "v": "a"}}',
        '{"weight_map": {"w": "../other/model.safetensors"}}',
        '{"weight_map": {"w": "/model.safetensors"}}',
        '{"weight_map": {"w": "a\\u0000.safetensors"}}',
        '{"weight_map": {"w": "' + "a" * 300 + '.safetensors"}}',
    ],
)
def test_hostile_indices_are_rejected(tmp_path: Path, index: str) -> None:
    model = a_model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors.index.json").write_text(index)
    message = "model.safetensors.index.json of the model is invalid: save the model again with save_pretrained"
    assert failure_of(model, tmp_path / "s").message == message


def test_a_missing_model_is_not_found(tmp_path: Path) -> None:
    model = ModelSpec(uri=(tmp_path / "none").as_uri())
    failure = failure_of(model, tmp_path / "s")
    assert failure.reason is Reason.NOT_FOUND
    assert failure.message == f"There is no model at {model.uri}: correct spec.model.uri, or upload the model"


def test_an_address_on_the_hub_needs_owner_and_name(tmp_path: Path) -> None:
    for uri in ("hf://model", "hf://owner/model/file"):
        failure = failure_of(ModelSpec(uri=uri), tmp_path)
        assert failure.message == f"{uri} is not a valid address on the hub: set spec.model.uri to hf://owner/name"


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 512, "model_type": "bert"}, 512),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, 512),
        ({"n_positions": 1024, "model_type": "gpt2"}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}, "model_type": "gemma3"}, 8192),
        ({"model_type": "bloom"}, None),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": 10**100, "n_positions": 8}, 8),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 10**100}, 512),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 0}, 513),
        ({"max_position_embeddings": 514, "model_type": ["roberta"]}, 514),
    ],
)
def test_maximum_sequence_length_comes_from_the_configuration(config: dict[str, Any], positions: int | None) -> None:
    assert max_positions(config) == positions
