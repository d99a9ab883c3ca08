"""What `finetune advise` found, for people and for programs. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.methods import MethodType
from finetune_api.text import clean, duration
from finetune_cli.advise.candidates import Candidate, distributed_of
from finetune_cli.advise.costs import Cost, Costs
from finetune_cli.advise.hardware import Hardware
from finetune_cli.advise.models import ModelScore, best_first
from finetune_cli.advise.notes import notes, search_sentences
from finetune_cli.advise.recommend import Recommendation, Trial, accuracy_of, bits_of, ordered
from finetune_cli.output import columns
from finetune_core.summaries import size

WIDTH = 100
_LONGEST_NAME = 30


@dataclass(frozen=True)
class Advice:
    """All that was found."""

    spec: FineTuneJobSpec
    manifest: str
    """Path of the manifest."""
    hardware: Hardware
    candidates: Sequence[Candidate]
    costs: Costs
    recommendation: Recommendation
    trials: Sequence[Trial] = ()
    models: Sequence[ModelScore] = ()
    tries: int = 0
    """How many methods should be tried."""


def lines(advice: Advice) -> list[str]:
    """The advice for people, in at most `WIDTH` columns."""
    data = advice.costs.data
    labels = f", {data.labels} labels" if data.labels else ""
    facts = (
        f"{data.rows:,} training rows{labels}, {data.tokens:,} tokens, the longest row {data.longest:,}; on "
        f"{advice.hardware.in_words}"
    )
    found = [*wrapped(facts), *(line for note in notes(advice) for line in wrapped(note)), ""]
    found += _methods(advice)
    if refused := _refused(advice):
        found += ["", "Not possible:", *refused]
    if advice.trials:
        found += ["", *_trials(advice)]
    if advice.models:
        found += ["", *models_lines(advice.models)]
    found += ["", *wrapped(" ".join(advice.recommendation.reasons))]
    found += ["", *wrapped(" ".join(searches))] if (searches := search_sentences(advice)) else []
    if settings := manifest_lines(advice):
        found += ["", f"In {advice.manifest}, below spec:", *(f"  {line}" for line in settings)]
    elif advice.recommendation.choice is not None:
        found += ["", f"{advice.manifest} says so already."]
    return found


def manifest_lines(advice: Advice) -> list[str]:
    """The lines of the manifest that the recommendation changes; none if it has them already."""
    choice, spec = advice.recommendation.choice, advice.spec
    if choice is None:
        return []
    method, quantization = choice.candidate.method, choice.candidate.quantization
    found = []
    if method is not spec.method.type or "type" not in spec.method.model_fields_set:
        found.append(f"method: {{type: {method}{suggested_settings(method)}}}")
    if quantization is not spec.model.quantization:
        found.append(f"model: {{quantization: {quantization}}}  # beside the uri")
    if choice.rows is not None:
        found.append(f"training: {{maxBatchSizePerDevice: {choice.rows}}}")
    wanted, given = distributed_of(method, spec, advice.hardware.distributed), spec.distributed
    if wanted:
        size = wanted["workers"] * max(1, wanted["gpusPerWorker"])
        if size != given.world_size or bool(wanted["gpusPerWorker"]) != bool(given.gpus_per_worker):
            found.append(f"distributed: {{workers: {wanted['workers']}, gpusPerWorker: {wanted['gpusPerWorker']}}}")
    return found


def suggested_settings(method: MethodType) -> str:
    """The settings that a method has no meaning without, for its line in the manifest."""
    settings = method.row.settings
    if settings is None or not settings.suggested:
        return ""
    fields = ", ".join(f"{name}: {value}" for name, value in settings.suggested.items())
    return f", {to_camel(settings.field)}: {{{fields}}}"


def document(advice: Advice) -> dict[str, Any]:
    """The advice for programs, with the same figures."""
    data, choice = advice.costs.data, advice.recommendation.choice
    order = [cost.candidate.name for cost in ordered(advice.costs, advice.spec)]
    return {
        "exitCode": 0,
        "data": {
            "rows": data.rows,
            "tokens": data.tokens,
            "learnedTokens": data.learned_tokens,
            "labels": data.labels,
            "longestRow": data.longest,
            "bits": bits_of(data, advice.spec),
        },
        "notes": notes(advice),
        "model": {"uri": advice.spec.model.uri, "family": str(data.family)},
        "hardware": {
            "gpu": advice.hardware.gpu and str(advice.hardware.gpu),
            "processes": advice.hardware.world.size,
            "memoryBytes": advice.costs.limit,
        },
        "methods": [_method_document(cost, order) for cost in advice.costs.found],
        "refused": [
            {"method": str(one.method), "quantization": str(one.quantization), "reason": one.refusal}
            for one in advice.candidates
            if one.spec is None
        ],
        "trials": [_trial_document(trial, advice.costs) for trial in advice.trials],
        "models": [model_document(one) for one in best_first(advice.models)],
        "recommendation": {
            "method": choice and str(choice.candidate.method),
            "quantization": choice and str(choice.candidate.quantization),
            "reasons": list(advice.recommendation.reasons),
            "manifest": manifest_lines(advice),
        },
        "search": search_sentences(advice),
    }


def _methods(advice: Advice) -> list[str]:
    """The table of the methods that the rules allow, the best first, then those that do not fit."""
    fitting = ordered(advice.costs, advice.spec)
    choice = advice.recommendation.choice
    timed = any(cost.seconds is not None for cost in fitting)
    head = ["method", "trained parameters", "memory", "accuracy¹", *(["time²"] if timed else []), ""]
    rows = []
    for cost in fitting:
        accuracy = accuracy_of(cost)
        memory = "unknown" if cost.memory is None else size(cost.memory)
        rows.append(
            [
                cost.candidate.name,
                f"{cost.trained:,} ({100 * cost.share:.3g} %)" if cost.trained else "none",
                memory + (f", {cost.rows} a device" if cost.rows else "") + (", recomputed" if cost.recomputes else ""),
                "" if accuracy is None else f"{accuracy:.3f}",
                *([_time(cost)] if timed else []),
                "recommended" if choice and cost.candidate.name == choice.candidate.name else "",
            ]
        )
    limit = f", which has {size(advice.costs.limit)}" if advice.costs.limit else ""
    footnotes = [
        f"memory: estimated peak of each process{limit}",
        "¹ of the method on the quickstart, no forecast",
    ]
    if timed:
        footnotes.append("² of the train stage, from a measured speed")
    return [*columns([head, *rows]), *wrapped("; ".join(footnotes))] if rows else ["No method fits."]


def _time(cost: Cost) -> str:
    return "" if cost.seconds is None else f"{duration(cost.seconds)} ({cost.measured_in})"


def _refused(advice: Advice) -> list[str]:
    """The methods that rules, model or memory exclude; equal reasons once."""
    names: dict[str, list[str]] = {}
    for candidate in advice.candidates:
        if candidate.spec is None:
            names.setdefault(candidate.refusal, []).append(candidate.name)
    for cost in advice.costs.found:
        if not cost.fits:
            names.setdefault(cost.problem, []).append(cost.candidate.name)
    return [line for why, those in names.items() for line in wrapped(f"{', '.join(those)}: {why}", "  ")]


def _trials(advice: Advice) -> list[str]:
    by_name = {cost.candidate.name: cost for cost in advice.costs.found}
    rows = []
    for trial in advice.trials:
        if trial.loss is None:
            continue
        cost = by_name[trial.name]
        rows.append(
            [
                trial.name,
                str(trial.steps),
                f"{trial.loss:.4g}",
                duration(trial.seconds),
                f"{trial.speed.tokens_per_second:,.0f}",
                "" if trial.memory is None else size(trial.memory),
                "" if cost.seconds is None else f"{duration(cost.seconds)} for {cost.steps:,} steps",
            ]
        )
    head = ["tried", "steps", "validation loss", "took", "tokens/s", "peak memory", "whole training"]
    failed = [line for one in advice.trials if one.loss is None for line in wrapped(f"{one.name}: {one.problem}")]
    return [*(columns([head, *rows]) if rows else []), *failed]


def models_lines(models: Sequence[ModelScore]) -> list[str]:
    """The table of base models, and those that cannot be measured."""
    found = best_first(models)
    rows = [
        [_short(one.uri), f"{one.value:.4g}", one.measure, f"{one.parameters:,}", duration(one.seconds)]
        for one in found
        if one.value is not None
    ]
    head = ["base model", "score", f"on {max(one.rows for one in found)} validation rows", "parameters", "took"]
    failed = [line for one in found if one.value is None for line in wrapped(f"{one.uri}: {one.problem}", "  ")]
    return [
        *(columns([head, *rows]) if rows else []),
        *(["Not measured:", *failed] if failed else []),
        *(wrapped(models_sentence(found)) if rows else []),
    ]


def models_sentence(found: Sequence[ModelScore]) -> str:
    """Which model is the best, and by how much; ``found`` is the result of `best_first`."""
    best = found[0]
    others = [one for one in found[1:] if one.value is not None and one.measure == best.measure]
    if best.value is None:
        return "No base model was measured."
    better = f", before {_short(others[0].uri)} with {others[0].value:.4g}" if others else ""
    return f"Best on these rows: {_short(best.uri)} with {best.value:.4g}{better}."


def _short(uri: str) -> str:
    """An address without its beginning, if it is long."""
    shown = clean(uri).removeprefix("hf://").removeprefix("file://")
    return shown if len(shown) <= _LONGEST_NAME else "…/" + "/".join(shown.split("/")[-2:])[-_LONGEST_NAME:]


def wrapped(text: str, indent: str = "") -> list[str]:
    """A text in lines of at most `WIDTH` columns."""
    return textwrap.wrap(
        clean(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  " * bool(indent),
        break_on_hyphens=False,
    )


def _method_document(cost: Cost, order: Sequence[str]) -> dict[str, Any]:
    name = cost.candidate.name
    return {
        "method": str(cost.candidate.method),
        "quantization": str(cost.candidate.quantization),
        "fits": cost.fits,
        "rank": order.index(name) + 1 if name in order else None,
        "reason": cost.problem or None,
        "parameters": cost.parameters or None,
        "trainedParameters": cost.trained or None,
        "memoryBytes": cost.memory,
        "activationsRecomputed": cost.recomputes,
        "maxBatchSizePerDevice": cost.rows,
        "accuracyOnQuickstart": accuracy_of(cost),
        "steps": cost.steps or None,
        "tokens": cost.tokens or None,
        "seconds": cost.seconds,
        "measuredIn": cost.measured_in or None,
    }


def _trial_document(trial: Trial, costs: Costs) -> dict[str, Any]:
    whole = next((cost.seconds for cost in costs.found if cost.candidate.name == trial.name), None)
    return {
        "method": trial.name,
        "steps": trial.steps,
        "validationLoss": trial.loss,
        "seconds": trial.seconds,
        "tokensPerSecond": trial.speed.tokens_per_second,
        "peakMemoryBytes": trial.memory,
        "trainedParameters": trial.trained,
        "wholeTrainingSeconds": whole,
        "problem": trial.problem or None,
    }


def model_document(one: ModelScore) -> dict[str, Any]:
    """A base model for programs."""
    return {
        "uri": one.uri,
        "measure": one.measure or None,
        "value": one.value,
        "higherIsBetter": one.higher_is_better,
        "rows": one.rows,
        "parameters": one.parameters,
        "seconds": one.seconds,
        "problem": one.problem or None,
    }
