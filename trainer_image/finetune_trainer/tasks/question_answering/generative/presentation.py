"""QuestionAnswering with a model that generates its answers, in report and model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_trainer.pairs.presentation import causal_usage, length_limitation, seq2seq_usage
from finetune_trainer.tasks.base import CardParts, Presentation
from finetune_trainer.tasks.instruction_tuning.presentation import baseline_note as decoding_note
from finetune_trainer.tasks.question_answering.generative.texts import NO_ANSWER, instruction, marked, message
from finetune_trainer.tasks.question_answering.kinds import UNANSWERED
from finetune_trainer.tasks.question_answering.presentation import NEVER_WITHOUT_ANSWER, RULES, report_section

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs

_QUESTION = "When did the mill close?"
_CONTEXT = "The mill at the river closed in May. Forty people lost their jobs."


def baseline_note(details: Mapping[str, Any]) -> str:
    """The decoding settings of both models, and the rules of the metrics."""
    return " ".join(part for part in (decoding_note(details), RULES, f"“{NO_ANSWER}” counts as no answer.") if part)


def causal_card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that answers a question about a text."""
    content = f"{instruction(inputs.spec)}\n\n{message(_QUESTION, _CONTEXT)}"
    return _card(inputs, causal_usage(inputs, content, environment))


def seq2seq_card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that answers a question about a text."""
    return _card(inputs, seq2seq_usage(inputs, inputs.data.prefix + marked(_QUESTION, _CONTEXT), environment))


def _card(inputs: CardInputs, usage: str) -> CardParts:
    return CardParts(
        purpose="generative question answering",
        usage=usage,
        note=f"The answer is `{NO_ANSWER}` where the text has none.",
        limitations=["An answer may contain words that are not in the text."],
        of_training=[
            length_limitation(inputs),
            *(() if inputs.data.splits["train"].label_counts.get(UNANSWERED) else (NEVER_WITHOUT_ANSWER,)),
        ],
    )


CAUSAL = Presentation(baseline_note, report_section, causal_card)
SEQ2SEQ = Presentation(baseline_note, report_section, seq2seq_card)
