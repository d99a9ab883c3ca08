"""Instructions that a model proposes, from examples of the training split."""

from __future__ import annotations

from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.search.asked import Asked
from finetune_trainer.search.prompt import Rows
from finetune_trainer.search.record import Record

_SHOWN = 4
"""Training examples that a proposal is based on."""
_SHOWN_CHARACTERS = 500
_DRAWS = 3
"""Answers for each proposal, some of which may be empty or known."""
_LONGEST = 1000


def propose(record: Record, settings: PromptSearchSpec, asked: Asked, rows: Rows, spec: FineTuneJobSpec) -> None:
    """Set the candidates of ``record``: those of the job, and those that the model proposes.

    Raises:
        StageFailure: BadConfiguration when there is none.
    """
    found = list(settings.candidates)
    wanted = len(found) + (settings.propose or 0)
    placeholders = spec.task.type.row.placeholders
    for number in range(_DRAWS * (settings.propose or 0)):
        if len(found) == wanted:
            break
        answer, cost = asked.written(_question(rows, number), number)
        record.proposing += cost.tokens
        text = " ".join(answer.split()).strip("\"' ")[:_LONGEST].replace("{", "(").replace("}", ")")
        candidate = f"{text}\n\n{texts_of(placeholders)}"
        if text and candidate not in found:
            found.append(candidate)
    record.candidates = tuple(found)
    record.proposed = len(found) - len(settings.candidates)
    if not found:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            "method.promptSearch.propose: the model has proposed no instruction, because its answers are empty: set "
            "method.promptSearch.candidates, or choose a model that follows instructions",
        )


def texts_of(placeholders: tuple[str, ...]) -> str:
    """The places of the texts of a row, with their names if there are several."""
    if len(placeholders) == 1:
        return f"{{{placeholders[0]}}}"
    return "\n\n".join(f"{name.capitalize()}: {{{name}}}" for name in placeholders)


def _question(rows: Rows, number: int) -> str:
    """What the model is asked; each time with other examples."""
    chosen = [(number * _SHOWN + place) % len(rows) for place in range(min(_SHOWN, len(rows)))]
    examples = "\n\n".join(
        "\n".join(
            [
                *(f"{name.capitalize()}: {text[:_SHOWN_CHARACTERS]}" for name, text in rows.inputs[index].items()),
                f"Answer: {rows.answers[index][:_SHOWN_CHARACTERS]}",
            ]
        )
        for index in chosen
    )
    return (
        "Somebody answers texts like this:\n\n"
        f"{examples}\n\n"
        "Write the instruction that this person was given, in one or two sentences. Write the instruction only."
    )
