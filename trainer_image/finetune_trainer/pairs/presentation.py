"""Text-to-text tasks in report and model card."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import partial
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from finetune_trainer.pairs.task import PairTask
from finetune_trainer.tasks.base import CardParts, Presentation, template_of
from finetune_trainer.tasks.instruction_tuning.presentation import baseline_note, of_changes

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs

_PIECES = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+|\s+|[^\w\s]")
_BETWEEN_MARKS = re.compile(r"</mark>(\s+)<mark>")
_LIMITATION = "Outputs were compared with a single reference; truth and safety were not evaluated."


def report_section(task: PairTask, inputs: ReportInputs, environment: Environment) -> str:
    """The test examples with the largest changes of one metric, with what differs from the reference marked."""
    if not inputs.predictions:
        return ""
    render = template_of(__package__, "report.html.jinja", environment)
    return render(
        **of_changes(inputs),
        titles=task.titles,
        marked=marked,
        shorten=environment.filters["short"],
    )


def marked(text: str, reference: str) -> Markup:
    """``text`` as HTML, with the pieces marked that ``reference`` does not have in the same order."""
    pieces, others = _PIECES.findall(text), _PIECES.findall(reference)
    parts = []
    first, second = ([piece.casefold() for piece in part] for part in (pieces, others))
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for kind, start, end, _, _ in matcher.get_opcodes():
        part = "".join(pieces[start:end])
        if part:
            parts.append(escape(part) if kind == "equal" or part.isspace() else Markup("<mark>{}</mark>").format(part))
    return Markup(_BETWEEN_MARKS.sub(r"\1", Markup("").join(parts)))  # escaped, so that only our marks match


def _causal_card(task: PairTask, inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that gives the model one source."""
    return _card(task, inputs, causal_usage(inputs, f"{task.instruction(inputs.spec)}\n\n{task.sample}", environment))


def _seq2seq_card(task: PairTask, inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that gives the model one source."""
    return _card(task, inputs, seq2seq_usage(inputs, inputs.data.prefix + task.sample, environment))


def causal_usage(inputs: CardInputs, content: str, environment: Environment) -> str:
    """A program that gives a decoder the message ``content``."""
    return template_of(__package__, "causal_usage.py.jinja", environment)(
        **inputs.of_usage,
        content=content,
        max_new_tokens=inputs.spec.evaluation.generation.max_new_tokens,
        beams=inputs.spec.evaluation.generation.beams,
        end_tokens=list(inputs.data.end_tokens) or None,
    )


def seq2seq_usage(inputs: CardInputs, source: str, environment: Environment) -> str:
    """A program that gives a model with an encoder and a decoder the text ``source``."""
    return template_of(__package__, "seq2seq_usage.py.jinja", environment)(
        **inputs.of_usage, source=source, max_length=inputs.data.max_sequence_length
    )


def length_limitation(inputs: CardInputs) -> str:
    """How long a text the model reads."""
    length = inputs.data.max_sequence_length
    return f"The model reads at most {length:,} tokens; the end of longer texts was cut off in training and evaluation."


def _card(task: PairTask, inputs: CardInputs, usage: str) -> CardParts:
    languages = tuple(language for language in task.languages(inputs.spec) or () if language)
    return CardParts(
        purpose=task.purpose(inputs.spec),
        usage=usage,
        note="",
        limitations=[_LIMITATION],
        of_training=[length_limitation(inputs)],
        languages=languages,
    )


def causal_presentation(task: PairTask) -> Presentation:
    """What report and model card say about ``task`` on decoders."""
    return Presentation(baseline_note, partial(report_section, task), partial(_causal_card, task))


def seq2seq_presentation(task: PairTask) -> Presentation:
    """What report and model card say about ``task`` on models with an encoder and a decoder."""
    return Presentation(baseline_note, partial(report_section, task), partial(_seq2seq_card, task))
