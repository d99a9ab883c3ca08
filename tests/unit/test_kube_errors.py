"""Messages of failed requests: the cause, without the documents that the API server or a proxy adds."""

from __future__ import annotations

import json

import pytest

from finetune_kube.errors import decode, without_documents

TEMPLATE = "core.PodTemplateSpec{ObjectMeta:v1.ObjectMeta{Name:" + "x" * 2000 + "}}"


def test_a_whole_pod_template_is_left_out_of_a_message() -> None:
    cause = f"Invalid value: {TEMPLATE}: field is immutable"
    message = f'Job.batch "intents-r1-train-1" is invalid: spec.template: {cause}'
    details = {"causes": [{"field": "spec.template", "message": cause}]}
    content = json.dumps({"kind": "Status", "reason": "Invalid", "message": message, "details": details})
    error = decode(422, "", content.encode())
    short = "Invalid value: core.PodTemplateSpec{…}: field is immutable"
    assert error.message == f'Job.batch "intents-r1-train-1" is invalid: spec.template: {short}'
    assert error.causes == [("spec.template", short)]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("no braces", "no braces"),
        ('Invalid value: {"a": 1}: must be b', 'Invalid value: {"a": 1}: must be b'),
        ("cut off {" + "x" * 100, "cut off {…}"),
        ("{" + "{}" * 50 + "} and {" + "y" * 100 + "}", "{…} and {…}"),
        ("} alone", "} alone"),
    ],
)
def test_only_long_documents_are_shortened(text: str, short: str) -> None:
    assert without_documents(text) == short


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html><body>" + "x" * 2000, "the response is a page of a proxy, not one of the API server"),
        ('{"trace": "' + "x" * 2000 + '"}', "Bad Gateway"),
        ("upstream failed", "upstream failed"),
    ],
)
def test_the_response_of_a_proxy_is_not_quoted_at_length(content: str, message: str) -> None:
    assert decode(502, "Bad Gateway", content.encode()).message == message
