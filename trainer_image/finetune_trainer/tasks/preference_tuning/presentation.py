"""PreferenceTuning in report and model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.evaluation import BaselineKind
from finetune_trainer.report.changes import GenerationChanges, generation_changes
from finetune_trainer.report.format import code_block
from finetune_trainer.tasks.base import CardParts, Presentation, template_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs


def _rewards(continued: bool) -> str:
    """What rewards are measured against: the model that training started from."""
    start = "the adapter that training continued from" if continued else "the base model"
    return (
        f"Rewards are measured against {start}: beta times the log-probability that an answer has gained. Those of "
        f"{start} are 0, so that it has no score in them, and the change is that from equal rewards."
    )


def baseline_note(details: Mapping[str, Any]) -> str:
    """How log-probabilities and rewards were compared."""
    rewards = _rewards(details.get("rewardsAgainst") == BaselineKind.PREVIOUS)
    note = f"{rewards} Here, beta is {details['beta']:g}. Log-probabilities are sums over the tokens of an answer."
    if ties := details.get("ties"):
        listed = ", ".join(f"{max(counts.values())} in {metric}" for metric, counts in ties.items())
        note += f" Ties count neither way: {listed}."
    return note


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """The test examples with the largest gains and losses."""
    if not inputs.predictions:
        return ""
    paired = _is_paired(inputs.predictions)
    changes = _changes(inputs.predictions, inputs.spec.evaluation.report.include_examples)
    render = template_of(__package__, "report.html.jinja", environment)
    return render(changes=changes, paired=paired, nats=_nats)


def card_examples(inputs: CardInputs) -> str:
    """The test example with the largest gain, and that with the largest loss."""
    rows = list(inputs.predictions)
    if not rows:
        return ""
    changes, paired = _changes(rows, examples=True), _is_paired(rows)
    shown = (("Largest gain", changes.gains[:1]), ("Largest loss", changes.losses[:1]))
    return "\n\n".join(_card_example(title, item.row, paired) for title, items in shown for item in items)


def _is_paired(rows: Sequence[Mapping[str, Any]]) -> bool:
    return "chosen" in rows[0]


def _changes(rows: Sequence[Mapping[str, Any]], examples: bool) -> GenerationChanges:
    """How the log-probabilities of the rows of predictions.jsonl change."""
    scored = [_pair(row) if _is_paired(rows) else _judged(row) for row in rows]
    return generation_changes(
        scored, "gain", True, examples=examples, is_reference=lambda row: row["scores"]["gain"]["tuned"] > 0
    )


def _card_example(title: str, row: Mapping[str, Any], paired: bool) -> str:
    parts = [f"**{title}.** Prompt:", code_block(row["prompt"])]
    for name in ("chosen", "rejected") if paired else ("completion",):
        found = row["logProbabilities"][name]
        what = name if paired else row["label"]
        values = f"{_nats(found['baseline'])} before and {_nats(found['tuned'])} after tuning"
        parts += [f"{what.capitalize()} (log-probability {values}):", code_block(row[name])]
    return "\n\n".join(parts)


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with the difference of the log-probabilities of its answers as its score."""
    chosen, rejected = (row["logProbabilities"][name] for name in ("chosen", "rejected"))
    gain = {model: chosen[model] - rejected[model] for model in ("baseline", "tuned")}
    return {**row, "scores": {"gain": gain}}


def _judged(row: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with its log-probability as its score, negative for an undesirable one."""
    sign = 1 if row["label"] == "desirable" else -1
    gain = {model: sign * value for model, value in row["logProbabilities"]["completion"].items()}
    return {**row, "scores": {"gain": gain}}


def _nats(value: float) -> str:
    return f"{value:+.2f} nats".replace("-", "−")


def card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that answers a prompt."""
    from finetune_trainer.tasks.instruction_tuning.presentation import usage

    return CardParts(
        purpose="answering as people prefer",
        usage=usage(inputs, environment),
        note=f"{_rewards(inputs.data.continued is not None)}\n",
        examples=card_examples(inputs),
        limitations=[
            "Only the probabilities of given answers were compared; no answers were generated, and truth and safety "
            "were not evaluated."
        ],
    )


PRESENTATION = Presentation(baseline_note, report_section, card)
