"""CodeGeneration in report and model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_trainer.pairs.presentation import seq2seq_usage
from finetune_trainer.report.format import code_block, inline_code
from finetune_trainer.sandbox.programs import Ending
from finetune_trainer.tasks.base import CardParts, Presentation, template_of
from finetune_trainer.tasks.code_generation.stopping import stop_of
from finetune_trainer.tasks.code_generation.texts import purpose, sample
from finetune_trainer.tasks.instruction_tuning.presentation import baseline_note as decoding_note
from finetune_trainer.tasks.instruction_tuning.presentation import of_changes

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_api.evaluation import Compared
    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs

_LIMITATIONS = (
    "Tests show that a program is right for the cases that they try; its safety was not evaluated. Review what the "
    "model writes before you run it."
)


def baseline_note(details: Mapping[str, Any]) -> str:
    """The decoding settings of both models, the part of an output that counts, and what was run."""
    if "stopRule" not in details:
        return ""
    parts = [decoding_note(details), details["stopRule"]]
    if details.get("overSamples"):
        parts.append("Metrics other than pass@k are means over the answers to a prompt.")
    if "rowsWithTests" in details:
        parts.append(f"{details['rowsWithTests']:,} of the {details['rows']:,} test examples have tests.")
    return " ".join(parts)


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """The test examples with the largest changes of one metric, with what their tests said."""
    if not inputs.predictions:
        return ""
    endings = inputs.details.get("endings", {})
    render = template_of(__package__, "report.html.jinja", environment)
    several = inputs.spec.evaluation.generation.samples > 1
    return render(**of_changes(inputs), endings=_rows(endings), several=several)


def _rows(endings: Mapping[str, Mapping[str, int]]) -> Sequence[tuple[str, int, int]]:
    """Each ending with its counts of baseline and tuned model."""
    baseline, tuned = (endings.get(model, {}) for model in ("baseline", "tuned"))
    return [(name, baseline.get(name, 0), tuned.get(name, 0)) for name in dict.fromkeys([*tuned, *baseline])]


def card_examples(inputs: CardInputs) -> str:
    """Test examples with what their tests said: one that the tuned model gained, one lost, and one that it fails."""
    passed = [row for row in inputs.predictions if row.get("outcomes", {}).get("tuned")]
    compared = inputs.evaluation.baseline.kind.compared
    found = {}
    for title, baseline, tuned in (
        (f"Only the {compared.noun} passes", False, True),
        ("Only the baseline passes", True, False),
        ("Neither passes", False, False),
    ):
        of_kind = (row for row in passed if (_passes(row, "baseline"), _passes(row, "tuned")) == (baseline, tuned))
        if row := next(of_kind, None):
            found[title] = row
    return "\n\n".join(_card_example(title, row, compared) for title, row in found.items())


def _passes(row: Mapping[str, Any], model: str) -> bool:
    outcomes = row["outcomes"].get(model) or ({"ending": ""},)
    return bool(outcomes[0]["ending"] == Ending.PASSED)


def _card_example(title: str, row: Mapping[str, Any], compared: Compared) -> str:
    parts = [f"**{title}.** Prompt:", code_block(row["prompt"])]
    for name, model in (("Baseline", "baseline"), (compared.title.capitalize(), "tuned")):
        outcome = (row["outcomes"].get(model) or ({"ending": "", "detail": ""},))[0]
        why = f", {inline_code(outcome['detail'])}" if outcome["detail"] else ""
        parts += [f"{name} ({outcome['ending'].lower()}{why}):", code_block(row[model] or "")]
    return "\n\n".join(parts)


def causal_card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that continues a prompt."""
    usage = template_of(__package__, "usage.py.jinja", environment)(
        **inputs.of_usage,
        prompt=sample(inputs.spec.task.language),
        prefix=inputs.data.prefix,
        max_new_tokens=inputs.spec.evaluation.generation.max_new_tokens,
        beams=inputs.spec.evaluation.generation.beams,
        end_tokens=list(inputs.data.end_tokens) or None,
    )
    return _card(inputs, usage)


def seq2seq_card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that continues a prompt."""
    return _card(inputs, seq2seq_usage(inputs, inputs.data.prefix + sample(inputs.spec.task.language), environment))


def _card(inputs: CardInputs, usage: str) -> CardParts:
    length = inputs.data.max_sequence_length
    return CardParts(
        purpose=purpose(inputs.spec),
        usage=usage,
        note="The evaluation measured a part of each output, which `finetune predict` prints, too. "
        f"{stop_of(inputs.spec.task.language).sentence}",
        examples=card_examples(inputs),
        limitations=[_LIMITATIONS],
        of_training=[f"The model was trained on prompts and completions of at most {length:,} tokens."],
    )


CAUSAL = Presentation(baseline_note, report_section, causal_card)
SEQ2SEQ = Presentation(baseline_note, report_section, seq2seq_card)
