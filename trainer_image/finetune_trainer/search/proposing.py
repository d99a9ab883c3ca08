"""Instructions that a model proposes, from examples of the training split."""

from __future__ import annotations

import re

from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import LONGEST_CANDIDATE, PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.search_rules import PLACEHOLDER, is_candidate
from finetune_trainer.search.asked import Asked, DoesNotFit, OnExamples
from finetune_trainer.search.prompt import Prompt, Rows
from finetune_trainer.search.record import Record

_EXAMPLES = "examples of answers"
"""Name of the place of the examples in the question; no column of a task has it."""
_SHOWN = 4
"""Training examples that a proposal is based on."""
_SHOWN_CHARACTERS = 500
_ROUNDS = 3
"""Times that the model is asked for the proposals that are missing."""
_THOUGHT = re.compile(r"^\s*<(think|thinking|reasoning)>.*?(</\1>|$)", re.DOTALL)
_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)


def propose(
    record: Record,
    settings: PromptSearchSpec,
    asked: Asked,
    rows: Rows,
    spec: FineTuneJobSpec,
    *,
    on_examples: OnExamples,
) -> None:
    """Set the candidates of ``record``: those of the job, and those that a model proposes.

    Args:
        record: The record of the search.
        settings: The settings of the search.
        asked: The model that proposes.
        rows: The training rows.
        spec: The spec of the job.
        on_examples: Called while the model writes.

    Raises:
        StageFailure: BadConfiguration when there is none.
    """
    found = list(settings.candidates)
    wanted = len(found) + (settings.propose or 0)
    drawn, problem = 0, ""
    question = _question(spec)
    for _ in range(_ROUNDS):
        shown = [{_EXAMPLES: _examples(rows, drawn + number)} for number in range(wanted - len(found))]
        if not shown:
            break
        try:
            answers, cost = asked.written(question, shown, drawn, on_examples)
        except DoesNotFit as error:
            problem = f"the question for proposals is too long, because {error}"
            break
        drawn += len(answers)
        record.proposing += cost.tokens
        for answer in answers:
            candidate = read_proposal(answer, spec.task.type.row.placeholders)
            if candidate and candidate not in found:
                found.append(candidate)
    record.candidates = tuple(found)
    record.proposed = len(found) - len(settings.candidates)
    record.dropped = drawn - record.proposed
    if not found:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"method.promptSearch.propose: "
            f"{problem or f'none of {drawn} answers is an instruction, because they are empty or have other places'}: "
            "set method.promptSearch.candidates, or method.promptSearch.proposer to a model that follows instructions",
        )


def read_proposal(answer: str, placeholders: tuple[str, ...]) -> str | None:
    """The candidate in an answer; None if it has none.

    An instruction without any placeholder gets all of them at its end.
    """
    text = _THOUGHT.sub("", answer).strip()
    fenced = _FENCE.match(text)
    text = (fenced[1] if fenced else text).strip().strip("\"'“”").strip()
    if text and not re.search(PLACEHOLDER, text, re.ASCII):
        text = f"{text}\n\n{texts_of(placeholders)}"
    fits = len(text) <= LONGEST_CANDIDATE and is_candidate(text, placeholders)
    return text if text and fits else None


def texts_of(placeholders: tuple[str, ...]) -> str:
    """The places of the texts of a row, with their names if there are several."""
    if len(placeholders) == 1:
        return f"{{{placeholders[0]}}}"
    return "\n\n".join(f"{name.capitalize()}: {{{name}}}" for name in placeholders)


def _question(spec: FineTuneJobSpec) -> Prompt:
    """What the model is asked, with a place for examples."""
    places = " and ".join(f"{{{name}}} for the {name}" for name in spec.task.type.row.placeholders)
    return Prompt(
        f"Somebody answers texts like this:\n\n{{{_EXAMPLES}}}\n\n"
        f"Write the instruction that this person was given, in one or two sentences, with {places}. Write the "
        "instruction only."
    )


def _examples(rows: Rows, number: int) -> str:
    """Examples for a question; each time others."""
    chosen = [(number * _SHOWN + place) % len(rows) for place in range(min(_SHOWN, len(rows)))]
    return "\n\n".join(
        "\n".join(
            [
                *(f"{name.capitalize()}: {text[:_SHOWN_CHARACTERS]}" for name, text in rows.inputs[index].items()),
                f"Answer: {rows.answers[index][:_SHOWN_CHARACTERS]}",
            ]
        )
        for index in chosen
    )
