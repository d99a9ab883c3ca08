"""What a user should know about the advice, besides the table. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.text import duration
from finetune_cli.advise.candidates import awaits_answers
from finetune_cli.advise.costs import Cost, DataFacts

if TYPE_CHECKING:
    from finetune_cli.advise.report import Advice


def notes(advice: Advice) -> list[str]:
    """Sentences about settings of the manifest that change what the table means."""
    return list(_notes(advice.spec, advice.costs.data))


def _notes(spec: FineTuneJobSpec, data: DataFacts) -> Iterator[str]:
    rate = spec.training.learning_rate
    if rate is not None:
        yield (
            f"All methods get the manifest's training.learningRate {rate:g}; without it, each has a default of its own."
        )
    if awaits_answers(spec):
        yield (
            f"The teacher would be asked up to {data.questions:,} questions; advise asks none. Its answers, which are "
            "counted after they were asked, come on top of tokens, memory and time."
        )
    elif spec.distillation is not None:
        yield "Memory, and times that were measured, include the teacher of spec.distillation."


def search_sentences(advice: Advice) -> list[str]:
    """What a search for a prompt would do, and when to prefer it to training; none where it is not possible."""
    found = [cost for cost in advice.costs.found if cost.fits and not cost.candidate.trains]
    # One is enough: rounding changes only the memory. The first is stored as the manifest says, where that fits.
    return list(_search(advice, found[0])) if found else []


def _search(advice: Advice, cost: Cost) -> Iterator[str]:
    spec, data, name = cost.candidate.spec, advice.costs.data, cost.candidate.name
    settings = spec.method.settings if spec else None
    if not isinstance(settings, PromptSearchSpec):
        return
    examples = min(settings.examples, data.validation_rows)
    asked = (advice.spec.method.type, advice.spec.model.quantization)
    wanted = asked == (cost.candidate.method, cost.candidate.quantization)
    begin = f"The manifest asks for {name}, which" if wanted else name
    each = ""
    if cost.seconds is not None:
        each = f", {duration(cost.seconds / max(1, cost.steps))} each ({cost.measured_in})"
    yield (
        f"{begin} trains nothing: it scores at most {cost.steps:,} combinations of an instruction with examples on "
        f"{examples:,} validation rows{each}, about {cost.tokens:,} tokens in all."
    )
    if settings.max_tokens is not None and settings.max_tokens < cost.tokens:
        yield f"It ends earlier, before more than the {settings.max_tokens:,} tokens of method.promptSearch.maxTokens."
    trained = any(one.fits and one.candidate.trains for one in advice.costs.found)
    begin = f"Prefer it to training while there are few rows (here {data.rows:,})," if trained else "It is useful"
    yield f"{begin} if the model follows instructions: {_FOLLOWS[cost.chat_template]}."
    if advice.tries:
        yield f"--try trains, and so tries no search: run the job with {cost.candidate.method} under another name."


_FOLLOWS = {
    True: "this one has a chat template, as such models have",
    False: "this one has no chat template, which such models have",
    None: "a model of T5's family does if it was trained on instructions, as FLAN-T5 was",
}
