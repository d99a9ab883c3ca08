"""Specs with a teacher for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

TEACHER = {"uri": "hf://owner/teacher"}
ENDPOINT = {"url": "https://models.example/v1", "model": "owner/teacher"}
SERVED = {"teacher": {"endpoint": ENDPOINT}, "mode": "Responses"}
LOGITS = {"distillation": {"teacher": TEACHER}}
RESPONSES = {"distillation": SERVED}

_URI_OR_ENDPOINT = "set either teacher.uri or teacher.endpoint"
_REVISION = "revision is only valid for an hf:// teacher"
_SECRET = "teacher.secretRef requires uri"
_FOR_LOGITS = "is only valid for mode Logits"
_LIMIT = "teacher.maxNewTokens is only valid for mode Responses"
_TOO_SMALL = "distillation cannot be combined with method IA3 or PromptTuning or PrefixTuning or PTuning, which trains"


def _taught(**fields: Any) -> dict[str, Any]:
    return {"distillation": {"teacher": TEACHER, **fields}}


def _served(**fields: Any) -> dict[str, Any]:
    return {"distillation": {**SERVED, **fields}}


DISTILLATION_CASES: tuple[tuple[Any, ...], ...] = (
    ("a teacher", LOGITS),
    ("a teacher with every setting", _taught(mode="Logits", temperature=0.5, weight=1, maxFailed=0.6)),
    ("a teacher with weight 0", _taught(weight=0)),
    ("a teacher's revision", {"distillation.teacher": {**TEACHER, "revision": "abc", "secretRef": {"name": "hub"}}}),
    ("a teacher for Full", {**LOGITS, "method": {"type": "Full"}}),
    *(
        (f"a teacher for {method}", {**LOGITS, "method": {"type": method}}, _TOO_SMALL)
        for method in ("IA3", "PromptTuning", "PrefixTuning", "PTuning")
    ),
    ("a teacher of label lists", {**LOGITS, "task.multiLabel": True}),
    ("a teacher of weighted labels", {**LOGITS, "task.classWeights": "Balanced"}),
    ("no teacher in a distillation", {"distillation.teacher": {}}, _URI_OR_ENDPOINT),
    ("two teachers", {"distillation.teacher": {**TEACHER, "endpoint": ENDPOINT}}, _URI_OR_ENDPOINT),
    ("a bucket's revision", {"distillation.teacher": {"uri": "s3://b/m", "revision": "abc"}}, _REVISION),
    (
        "a teacher's default revision in a bucket",
        {"distillation.teacher": {"uri": "s3://b/m", "revision": "main"}},
    ),
    ("a Secret beside an endpoint", _served(teacher={"endpoint": ENDPOINT, "secretRef": {"name": "s"}}), _SECRET),
    ("logits of an endpoint", {"distillation.teacher": {"endpoint": ENDPOINT}}, "mode Logits requires teacher.uri"),
    ("a share of failures with Logits", _taught(maxFailed=0.5), "maxFailed is only valid for mode Responses"),
    ("responses of a classification", RESPONSES),
    ("responses of label lists", {**RESPONSES, "task.multiLabel": True}),
)
"""Of TextClassification."""

CHAT_DISTILLATION_CASES: tuple[tuple[Any, ...], ...] = (
    ("a teacher of a chat", LOGITS),
    ("an endpoint", RESPONSES),
    ("an endpoint with the defaults of Logits", _served(temperature=2, weight=0.5)),
    (
        "an endpoint with every setting",
        _served(
            teacher={
                "endpoint": {
                    **ENDPOINT,
                    "secretRef": {"name": "api"},
                    "maxRequests": 5000,
                    "maxTokens": 2000000,
                    "maxConcurrency": 1,
                }
            },
            maxFailed=1,
        ),
    ),
    ("responses of a model", _taught(mode="Responses")),
    ("long responses of a model", _taught(mode="Responses", teacher={**TEACHER, "maxNewTokens": 8192})),
    ("a limit of tokens with Logits", _taught(teacher={**TEACHER, "maxNewTokens": 8}), _LIMIT),
    (
        "an endpoint with settings of its answers",
        _served(
            teacher={
                "endpoint": ENDPOINT,
                "maxNewTokens": 8,
                "temperature": 0,
                "prices": {"input": 0.15, "output": 0.6, "currency": "EUR"},
            }
        ),
    ),
    (
        "the temperature of a model",
        _taught(mode="Responses", teacher={**TEACHER, "temperature": 0}),
        "teacher.temperature requires teacher.endpoint",
    ),
    (
        "prices of a model",
        _taught(mode="Responses", teacher={**TEACHER, "prices": {"input": 1, "output": 2}}),
        "teacher.prices requires teacher.endpoint",
    ),
    ("the temperature of responses", _served(temperature=1), f"temperature {_FOR_LOGITS}"),
    ("the weight of responses", _served(weight=1), f"weight {_FOR_LOGITS}"),
)
"""Of InstructionTuning."""

PREFERENCE_DISTILLATION_CASES: tuple[tuple[Any, ...], ...] = tuple(
    (f"{mode} of preferences", changes, f"mode {mode} is not for PreferenceTuning, whose loss compares")
    for mode, changes in (("Logits", LOGITS), ("Responses", RESPONSES))
)
"""Of PreferenceTuning."""

DOCUMENT_DISTILLATION_CASES: tuple[tuple[Any, ...], ...] = (
    ("a teacher of documents", LOGITS),
    ("responses of documents", RESPONSES, "mode Responses is not for LanguageModeling, whose rows have no prompts"),
)
"""Of LanguageModeling."""

QUESTION_DISTILLATION_CASES: tuple[tuple[Any, ...], ...] = (("responses of questions", RESPONSES),)
"""Of QuestionAnswering."""

CODE_DISTILLATION_CASES: tuple[tuple[Any, ...], ...] = (("responses of programs", RESPONSES),)
"""Of CodeGeneration."""

DISTILLATION_REFUSED: tuple[tuple[str, Any], ...] = (
    ("distillation", {}),
    ("distillation.teacher", {"url": "https://models.example/v1"}),
    ("distillation", {"teacher": TEACHER, "temperature": 0}),
    ("distillation", {"teacher": TEACHER, "temperature": 101}),
    ("distillation", {"teacher": TEACHER, "weight": 1.1}),
    ("distillation", {"teacher": TEACHER, "weight": -0.1}),
    ("distillation", {"teacher": TEACHER, "mode": "logits"}),
    ("distillation", {**SERVED, "maxFailed": 1.1}),
    *(
        ("distillation", {**SERVED, "teacher": {"endpoint": ENDPOINT, **wrong}})
        for wrong in (
            {"temperature": 2.1},
            {"temperature": -1},
            {"maxNewTokens": 0},
            {"prices": {"input": 1}},
            {"prices": {"input": -1, "output": 1}},
            {"prices": {"input": 1, "output": 1, "currency": "dollar"}},
        )
    ),
    *(
        ("distillation", {**SERVED, "teacher": {"endpoint": {**ENDPOINT, **wrong}}})
        for wrong in (
            {"url": "models.example/v1"},
            {"url": "ftp://models.example/v1"},
            {"url": "https://"},
            {"url": "https://user:secret@models.example/v1"},
            {"url": "https://models.example/v1?key=secret"},
            {"model": ""},
            {"model": "a b"},
            {"maxRequests": 0},
            {"maxTokens": 0},
            {"maxConcurrency": 0},
            {"maxConcurrency": 257},
        )
    ),
)
"""Values that validation rejects."""
