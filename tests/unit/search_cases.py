"""Specs of a prompt search for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

CANDIDATES = ["Sentiment of: {text}", "{text} Is it good or bad?"]
ENDPOINT = {"url": "https://models.example/v1", "model": "owner/served"}

_NONE = "set candidates, the instructions to compare, or propose"
_MODEL = "set either model.uri or model.endpoint"
_NO_PROBABILITIES = "auroc, ece, mcc cannot be measured with model.endpoint"


def searched(**settings: Any) -> dict[str, Any]:
    return {"method": {"type": "PromptSearch", "promptSearch": {"candidates": CANDIDATES, **settings}}}


def served(**changes: Any) -> dict[str, Any]:
    return {"model": {"endpoint": ENDPOINT}, **searched(), **changes}


def _needs(task: str) -> str:
    return f"each of method.promptSearch.candidates of {task} has "


def _never(field: str) -> str:
    return f"{field} cannot be combined with method PromptSearch, which"


SEARCH_CASES: tuple[tuple[Any, ...], ...] = (
    ("a prompt search", searched()),
    ("a prompt search with every setting", searched(propose=3, shots=[0], trials=5, examples=9, maxTokens=1000)),
    ("a prompt search of proposals", {"method": {"type": "PromptSearch", "promptSearch": {"propose": 4}}}),
    (
        "settings of a prompt search for LoRA",
        {"method": {"promptSearch": {"propose": 1}}},
        "promptSearch is only valid for type PromptSearch",
    ),
    ("a prompt search without settings", {"method": {"type": "PromptSearch"}}, "PromptSearch requires promptSearch"),
    ("a prompt search without candidates", searched(candidates=[]), _NONE),
    ("equal candidates", searched(candidates=["{text}", "{text}"]), "candidates must be different from each other"),
    (
        "a candidate without its placeholder",
        searched(candidates=[*CANDIDATES, "Good or bad?"]),
        _needs("TextClassification") + "{text} in it, where the text of a row goes, and no other placeholder, not "
        "'Good or bad?'",
    ),
    (
        "a candidate with an unknown placeholder",
        searched(candidates=["{text} {label}"]),
        _needs("TextClassification"),
    ),
    ("a candidate with other braces", searched(candidates=['Answer {"label": …} to {text} {1}'])),
    ("a candidate that repeats its placeholder", searched(candidates=["{text}\n\nOnce more: {text}"])),
    ("a prompt search by two workers", {**searched(), "distributed.workers": 2}, _never("distributed.workers")),
    ("a prompt search on two GPUs", {**searched(), "distributed.gpusPerWorker": 2}, "which runs in one process: set"),
    ("a prompt search of label lists", {**searched(), "task.multiLabel": True}, _never("task.multiLabel")),
    (
        "a prompt search against the previous prompt",
        {**searched(), "evaluation.baseline": "Previous"},
        "evaluation.baseline cannot be combined with method PromptSearch, whose result",
    ),
    ("a prompt search with ZeRO-3", {**searched(), "distributed.zero.stage": 3}, "PromptSearch, which runs in one"),
    ("a prompt search of a rounded model", {**searched(), "model.quantization": "NF4"}),
    (
        "a rounded model behind an endpoint",
        served(model={"endpoint": ENDPOINT, "quantization": "Int8"}),
        "quantization requires uri",
    ),
    ("a model behind an endpoint that is not rounded", served(model={"endpoint": ENDPOINT, "quantization": "None"})),
    (
        "a prompt search with class weights",
        {**searched(), "task.classWeights": "Balanced"},
        _never("task.classWeights"),
    ),
    ("a prompt search without class weights", {**searched(), "task.classWeights": "None"}),
    ("a proposer", searched(propose=3, proposer=ENDPOINT)),
    ("a proposer of nothing", searched(proposer=ENDPOINT), "proposer requires propose"),
    ("long answers of an endpoint", served(**{"evaluation.generation": {"maxNewTokens": 500}})),
    ("long labels of a model", {**searched(), "evaluation.generation": {"maxNewTokens": 500}}, "evaluation.generation"),
    (
        "an endpoint with beams",
        served(**{"evaluation.generation": {"beams": 2}}),
        "evaluation.generation.beams cannot be set with model.endpoint",
    ),
    (
        "a prompt search with a teacher",
        {**searched(), "distillation": {"teacher": {"uri": "hf://o/t"}}},
        "distillation",
    ),
    ("a prompt search with training settings", {**searched(), "training.maxSteps": 20}),
    ("an endpoint in a prompt search", served()),
    ("an endpoint with one GPU", served(**{"distributed.gpusPerWorker": 1})),
    ("an endpoint for LoRA", {"model": {"endpoint": ENDPOINT}}, "model.endpoint is only valid for method PromptSearch"),
    ("a model at two places", {"model": {"uri": "hf://owner/name", "endpoint": ENDPOINT}}, _MODEL),
    ("a model nowhere", {"model": {}}, _MODEL),
    (
        "a Secret of the model beside an endpoint",
        served(model={"endpoint": ENDPOINT, "secretRef": {"name": "s"}}),
        "model.secretRef requires uri",
    ),
    ("the accuracy of an endpoint", served(**{"evaluation.metrics": ["accuracy", "macro_f1"]})),
    ("the auroc of an endpoint", served(**{"evaluation.metrics": ["accuracy", "auroc"]}), _NO_PROBABILITIES),
    (
        "a gate on the mcc of an endpoint",
        served(**{"evaluation.gates": [{"metric": "mcc", "minimum": 0.1}]}),
        _NO_PROBABILITIES,
    ),
)
"""Of TextClassification."""

CODE_SEARCH_CASES: tuple[tuple[Any, ...], ...] = (
    ("a prompt search for code", searched(candidates=["{prompt}"])),
    ("a candidate for code without its placeholder", searched(candidates=["Go on."]), _needs("CodeGeneration")),
    (
        "a prompt search that runs programs",
        {
            **searched(candidates=["{prompt}"]),
            "evaluation.allowCodeExecution": True,
            "evaluation.metrics": ["pass_at_1", "parses"],
        },
    ),
    (
        "a prompt search with samples",
        {
            **searched(candidates=["{prompt}"]),
            "evaluation.allowCodeExecution": True,
            "evaluation.generation": {"samples": 5},
        },
        _never("evaluation.generation.samples"),
    ),
    (
        "the loss in a prompt search",
        {**searched(candidates=["{prompt}"]), "evaluation.metrics": ["exact_match", "loss"]},
        "loss, token_accuracy cannot be measured with method PromptSearch",
    ),
    (
        "a prompt search with answers during training",
        {**searched(candidates=["{prompt}"]), "evaluation.duringTraining": {}},
        _never("evaluation.duringTraining"),
    ),
    (
        "a prompt search with tasks of lm-eval",
        {**searched(candidates=["{prompt}"]), "evaluation.harness": ["arc_easy"]},
        _never("evaluation.harness"),
    ),
    (
        "a packed prompt search",
        {**searched(candidates=["{prompt}"]), "training.packing": True},
        "PromptSearch, which trains nothing",
    ),
    (
        "a prompt search that recomputes activations",
        {**searched(candidates=["{prompt}"]), "training.activationCheckpointing": True},
        "PromptSearch, which trains nothing",
    ),
)

QUESTION_SEARCH_CASES: tuple[tuple[Any, ...], ...] = (
    ("a prompt search for questions", searched(candidates=["{context}\n{question}"])),
    ("a candidate without the context", searched(candidates=["{question}"]), _needs("QuestionAnswering")),
    (
        "a candidate for a summary without its text",
        {**searched(candidates=["Summarize."]), "task": {"type": "Summarization"}},
        _needs("Summarization"),
    ),
    (
        "a candidate for a translation without its source",
        {**searched(candidates=["{text}"]), "task": {"type": "Translation", "targetLanguage": "de"}},
        _needs("Translation"),
    ),
    (
        "a prompt search for instructions",
        {**searched(candidates=["Be brief. {prompt}"]), "task": {"type": "InstructionTuning"}},
    ),
    (
        "a candidate without the message of the user",
        {**searched(candidates=["Be brief."]), "task": {"type": "InstructionTuning"}},
        _needs("InstructionTuning"),
    ),
    (
        "a prompt search that learns all tokens",
        {**searched(candidates=["{prompt}"]), "task": {"type": "InstructionTuning", "loss": "All"}},
        _never("task.loss"),
    ),
    *(
        (f"a prompt search for {task}", {**searched(), "task": {"type": task}}, f"PromptSearch is not for {task}")
        for task in ("PreferenceTuning", "LanguageModeling")
    ),
)
