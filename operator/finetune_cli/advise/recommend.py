"""Orders the methods that fit, and says why the first is recommended: each sentence names the figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.methods import Quantization
from finetune_api.tables.tasks import ModelFamily
from finetune_cli.advise.candidates import awaits_answers
from finetune_cli.advise.costs import Cost, Costs, DataFacts, Speed
from finetune_core.summaries import size

EQUAL_ACCURACY = 0.01
"""Difference of measured accuracies that means nothing: half the confidence interval on 600 test examples is larger."""
EQUAL_LOSS = 0.02
"""Share of a validation loss that means nothing after so few steps."""
BITS_PER_PARAMETER = 2
"""What a trained parameter can store (Allen-Zhu and Li 2024); LoRA learns as well as full fine-tuning as long as the
data has less (Schulman et al. 2025)."""
FEW_STEPS = 100
"""Steps below which a training learns little. LoRA on 296 rows of the quickstart: accuracy 0.175 after 30 steps, 0.467
after 100, of the linear probe 0.407."""
_DEFAULT_EPOCHS = 3


@dataclass(frozen=True)
class Trial:
    """What a method reached in a few steps."""

    name: str
    steps: int
    loss: float | None
    """On the validation split; None if the trial failed."""
    seconds: float
    """Of the train stage, with its start."""
    speed: Speed
    memory: int | None
    """Peak of rank 0, in bytes."""
    trained: int
    problem: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Recommendation:
    """The method to take; None if none fits."""

    choice: Cost | None
    reasons: tuple[str, ...]


def ordered(costs: Costs, spec: FineTuneJobSpec) -> list[Cost]:
    """The methods that fit, the best first.

    By the measured accuracy of the method, and of those with equal ones the method that trains less; unless the data
    has more to learn than that can store. A rounded base model, which only saves memory, comes last where the exact one
    fits, and after it what trains nothing.
    """
    fitting = [cost for cost in costs.found if cost.fits and cost.candidate.trains]
    searches = [cost for cost in costs.found if cost.fits and not cost.candidate.trains]
    exact = {cost.candidate.method for cost in fitting if cost.candidate.quantization is Quantization.NONE}
    needless = [
        cost
        for cost in fitting
        if cost.candidate.quantization is not Quantization.NONE
        and cost.candidate.method in exact
        and spec.model.quantization is Quantization.NONE
    ]
    wanted = [cost for cost in fitting if cost not in needless]
    return [*_by_accuracy(wanted, bits_of(costs.data, spec) or 0.0), *_by_accuracy(needless, 0.0), *searches]


def recommended(costs: Costs, spec: FineTuneJobSpec, trials: Sequence[Trial] = ()) -> Recommendation:
    """The first of `ordered`, or after trials the one with the lowest validation loss.

    Args:
        costs: What the methods cost.
        spec: The spec of the manifest.
        trials: What some of them reached.
    """
    order = ordered(costs, spec)
    if not order:
        return Recommendation(None, ("No method fits; the reasons are above.",))
    reached = {trial.name: trial for trial in trials if trial.loss is not None}
    tried = [cost for cost in order if cost.candidate.name in reached]
    if tried:
        return _by_trials(tried, reached, costs, spec)
    first = order[0]
    if not first.candidate.trains:
        why = f"Use {first.candidate.name}: no method that trains is possible here; the reasons are above."
        return Recommendation(first, (why, f"It {_memory(first, costs)}."))
    order = [cost for cost in order if cost.candidate.trains]
    why = _why(first, order)
    enough = f"{_capacity(first, order, costs.data, spec)}, and it {_memory(first, costs)}."
    return Recommendation(first, (why, enough, *_longer(first, spec)))


def bits_of(data: DataFacts, spec: FineTuneJobSpec) -> float | None:
    """How much there is to learn at most: of a text about a bit for each token, of a choice its possibilities.

    None if a teacher has still to answer.
    """
    if awaits_answers(spec):
        return None
    if spec.preference:
        return float(data.rows)
    if data.labels:
        return data.rows * (data.labels if spec.task.multi_label else math.log2(max(data.labels, 2)))
    if data.family == ModelFamily.ENCODER:
        return data.rows * 2 * math.log2(max(data.longest, 2))
    return float(data.learned_tokens)


def accuracy_of(cost: Cost) -> float | None:
    """The measured accuracy of a method on the quickstart; that on the exact base model where no other is known."""
    known = cost.candidate.method.row.accuracies
    return known.get(cost.candidate.quantization, known.get(Quantization.NONE))


def _by_accuracy(costs: Sequence[Cost], bits: float) -> list[Cost]:
    known = [found for cost in costs if (found := accuracy_of(cost)) is not None]
    best = max(known, default=0.0)

    def key(cost: Cost) -> tuple[bool, bool, float, int]:
        accuracy = accuracy_of(cost)
        among_best = accuracy is not None and accuracy >= best - EQUAL_ACCURACY
        too_small = among_best and BITS_PER_PARAMETER * cost.trained < bits
        return (not among_best, too_small, 0.0 if among_best else -(accuracy or 0.0), cost.trained)

    return sorted(costs, key=key)


def _why(first: Cost, order: Sequence[Cost]) -> str:
    accuracy, name = accuracy_of(first), first.candidate.name
    others = [cost for cost in order if cost.candidate.method is not first.candidate.method]
    other = next(iter(others), None)
    trains = f"it trains {first.trained:,} parameters, {_percent(first.share)} of the model"
    if accuracy is None:
        return f"Use {name}: {trains}."
    reached = f"had an accuracy of {accuracy:.3f} on the quickstart"
    compared = ""
    if other is not None and (beside := accuracy_of(other)) is not None:
        compared = f", where {other.candidate.name}, which trains {other.trained:,}, reached {beside:.3f}"
    return f"Use {name}: {trains}, and {reached}{compared}."


def _capacity(first: Cost, order: Sequence[Cost], data: DataFacts, spec: FineTuneJobSpec) -> str:
    """How much there is to learn, and how much the trained parameters can store."""
    bits = bits_of(data, spec)
    if bits is None:
        return "How much there is to learn depends on the answers of the teacher"
    what = f"{data.rows:,} training rows"
    if data.labels:
        what += f" with {data.labels} labels"
    elif not spec.preference and data.family != ModelFamily.ENCODER:
        what = f"{data.learned_tokens:,} learned tokens"
    room = f"its parameters can store {_bits(BITS_PER_PARAMETER * first.trained)}"
    smaller = [cost for cost in order if _is_as_good(cost, first) and BITS_PER_PARAMETER * cost.trained < bits]
    if smaller and smaller[0] is not first:
        room += f" (those of {smaller[0].candidate.name} {_bits(BITS_PER_PARAMETER * smaller[0].trained)})"
    return f"The {what} hold at most {_bits(bits)}, {room}"


def _is_as_good(cost: Cost, other: Cost) -> bool:
    """Whether the measured accuracies of two methods do not differ."""
    one, another = accuracy_of(cost), accuracy_of(other)
    return one is not None and another is not None and abs(one - another) <= EQUAL_ACCURACY


def _memory(first: Cost, costs: Costs) -> str:
    """The predicate about its memory."""
    if first.memory is None:
        return "needs memory that cannot be estimated, because the model does not run without its weights"
    has = f" of {size(costs.limit)}" if costs.limit else ""
    ways = [f"{first.rows} rows in a micro-batch"] if first.rows else []
    ways += ["activations recomputed in the backward pass"] if first.recomputes else []
    recomputes = f", with {' and '.join(ways)}" if ways else ""
    return f"needs about {size(first.memory)}{has} of memory in each process{recomputes}"


def _longer(choice: Cost, spec: FineTuneJobSpec) -> tuple[str, ...]:
    """A sentence if the default number of epochs gives few steps."""
    training = spec.training
    if training.epochs is not None or training.max_steps is not None or not 0 < choice.steps < FEW_STEPS:
        return ()
    few = f"Its {choice.steps} steps are few, in which a model may learn too little: "
    chosen = choice.candidate.spec
    if chosen is not None and chosen.joins_rows:
        return (f"{few}{_more_packed_steps(chosen)}.",)
    epochs = math.ceil(FEW_STEPS * _DEFAULT_EPOCHS / choice.steps)
    return (f"{few}set training.epochs to {epochs}, for about {FEW_STEPS} steps.",)


def _more_packed_steps(spec: FineTuneJobSpec) -> str:
    """What gives more steps where a row has many texts: more epochs would show each of them too often."""
    joins, batch = spec.task.type.row.joins, spec.training.batch_size
    ways = ["lower training.maxSequenceLength" if joins else "set training.packing to false"]
    if batch > spec.distributed.world_size:
        ways.insert(0, f"lower training.batchSize, which is {batch}")
    return f"the texts are packed into few rows, so {', or '.join(ways)}"


def _by_trials(
    tried: Sequence[Cost], reached: Mapping[str, Trial], costs: Costs, spec: FineTuneJobSpec
) -> Recommendation:
    losses = {cost.candidate.name: reached[cost.candidate.name].loss or 0.0 for cost in tried}
    lowest = min(losses.values())
    within = lowest + EQUAL_LOSS * abs(lowest)
    choice = next(cost for cost in tried if losses[cost.candidate.name] <= within)
    name = choice.candidate.name
    best = min(losses, key=lambda one: losses[one])
    others = ", ".join(f"{loss:.4g} with {one}" for one, loss in losses.items() if one != name)
    steps = reached[name].steps
    loss = f"after {steps} steps its validation loss is {losses[name]:.4g}"
    beside = f", compared with {others}" if others else ""
    if name != best:
        beside += f"; it is within {100 * EQUAL_LOSS:.0f} % of the lowest and trains {choice.trained:,} parameters"
    reasons = (f"Use {name}: {loss}{beside}.", f"It {_memory(choice, costs)}.", *_longer(choice, spec))
    return Recommendation(choice, reasons)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share < 0.9995 else "all"


def _bits(bits: float) -> str:
    for factor, unit in ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit")):
        if bits >= factor:
            return f"{bits / factor:.1f} {unit}"
    return f"{bits:.0f} bits"
