"""Whether a published artifact belongs to the base model and the labels of a job."""

from __future__ import annotations

import json

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import FileEntry, Manifest
from finetune_api.spec import FineTuneJobSpec, Quantization
from finetune_trainer.prepare.same_model import check_base, check_labels, check_quantization
from finetune_trainer.prepared import DataReport, ModelContent, ModelIdentity
from finetune_trainer.published import Published
from tests.builders import manifest

CONTENT = ModelContent(weights="sha256:w", config="sha256:c", tokenizer="sha256:t")


def identity(revision: str, content: ModelContent | None = CONTENT, uri: str = "s3://models/a") -> ModelIdentity:
    return ModelIdentity(
        uri=uri, revision=revision, architecture="A", parameters=1, max_positions=None, content=content
    )


def published(model: ModelIdentity, labels: tuple[str, ...] = ("a", "b"), multiple: bool = False) -> Published:
    spec = FineTuneJobSpec.model_validate_json(json.dumps(manifest()["spec"]))
    data = DataReport.model_construct(labels=labels, multi_label=multiple, model=model)
    files = (FileEntry(path="adapter_config.json", size=1, sha256="0" * 64),)
    return Published("s3://adapters/x", "model.adapter", Manifest(files=files), spec, data)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (identity("sha256:1"), identity("sha256:1", None)),
        (identity("0123abc"), identity("0123abc", None, "hf://owner/copy")),
        (identity("sha256:1"), identity("0123abc", CONTENT, "hf://owner/model")),
        (identity("sha256:1"), identity("sha256:2", CONTENT, "s3://other/place")),
    ],
    ids=["same version", "same commit", "hub and storage", "another readme"],
)
def test_copies_of_a_model_are_the_same(known: ModelIdentity, found: ModelIdentity) -> None:
    check_base(published(known), found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "sha256:x"}, r"another set of weights \(sha256:x, not sha256:w\); set model.uri to a copy of s3"),
        ({"config": "sha256:x"}, r"another configuration \(sha256:x, not sha256:c\)"),
        ({"tokenizer": "sha256:x"}, r"another tokenizer \(sha256:x, not sha256:t\)"),
        ({"weights": "sha256:x", "tokenizer": "sha256:y"}, "another set of weights .* and another tokenizer"),
    ],
)
def test_other_content_is_another_model(change: dict[str, str], message: str) -> None:
    with pytest.raises(StageFailure, match=message) as caught:
        check_base(published(identity("sha256:1")), identity("sha256:2", CONTENT.model_copy(update=change)))
    assert caught.value.reason is Reason.BAD_CONFIGURATION


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(StageFailure, match=r"the digests of their files, .* are not known: use the same address"):
        check_base(published(identity("sha256:1", None)), identity("0123abc"))


def test_a_whole_model_only_needs_the_tokenizer() -> None:
    other = identity("sha256:2", CONTENT.model_copy(update={"weights": "sha256:x"}))
    check_base(published(identity("sha256:1")), other, ("tokenizer",))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a", "b", "c"), "lacks 'c', compared with the 3 labels of the job: use data with the same labels"),
        (("a",), "has also 'b', .*: set task.labels to all 2 of them"),
        (("a", "c"), "lacks 'c' and has also 'b'"),
        (("b", "a"), "has the labels in another order, .* in the order 'a', 'b'"),
    ],
)
def test_other_labels_are_refused(labels: tuple[str, ...], message: str) -> None:
    check_labels(published(identity("1")), ("a", "b"), multiple=False)
    with pytest.raises(StageFailure, match=message):
        check_labels(published(identity("1")), labels, multiple=False)


def test_lists_of_labels_are_others_than_labels() -> None:
    with pytest.raises(StageFailure, match=r"task\.multiLabel true, and the job has false"):
        check_labels(published(identity("1"), multiple=True), ("a", "b"), multiple=False)


def test_another_quantization_is_another_model() -> None:
    check_quantization(published(identity("1")), Quantization.NONE)
    with pytest.raises(StageFailure, match=r"with model\.quantization None, and the job has NF4"):
        check_quantization(published(identity("1")), Quantization.NF4)
