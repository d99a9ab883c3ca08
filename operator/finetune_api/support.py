"""The support matrix and the table of failure reasons, generated from the tables.

``python -m finetune_api.support > docs/support.md`` writes the page; ``--check FILE`` compares it. The table of
reasons is part of ``docs/status.md``, where a test compares it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from finetune_api.generated import print_or_check
from finetune_api.tables.distillation import DistillationMode
from finetune_api.tables.exports import EXPORTS, exports_of
from finetune_api.tables.methods import METHODS, MethodRow, MethodType, rate_in_words
from finetune_api.tables.metrics import METRICS
from finetune_api.tables.preferences import losses_by_rows
from finetune_api.tables.reasons import REASONS
from finetune_api.tables.tasks import TASKS, Measures, ModelFamily, TaskRow, TaskType

INTRODUCTION = """\
<!-- Generated from finetune_api by `python -m finetune_api.support`. Do not edit. -->
# What is supported
"""


def support_matrix() -> str:
    """The page as Markdown."""
    return "\n".join([INTRODUCTION, *_tasks(), *_methods(), *_distillation(), *_exports(), *_metrics()]).rstrip() + "\n"


def reasons() -> str:
    """The table of failure reasons in ``docs/status.md``, as Markdown."""
    return "\n".join(
        _table(
            ("reason", "what happened", "whose fault", "tried again"),
            ((f"`{reason}`", row.meaning, row.fault, row.retry) for reason, row in REASONS.items()),
        )
    )


def _tasks() -> Iterator[str]:
    yield "## Tasks"
    yield ""
    yield from _table(
        ("task", "columns", *ModelFamily, "metrics (the first is the score)", "packing", "sequence length"),
        (
            (
                f"`{task}`",
                ", or ".join(" + ".join(f"`{column.field}`" for column in form) for form in row.columns),
                *("yes" if family in row.families else "" for family in ModelFamily),
                _measures(task, row),
                "yes" if row.packs else "",
                row.lengths_in_words,
            )
            for task, row in TASKS.items()
        ),
    )
    yield ""


def _measures(task: TaskType, row: TaskRow) -> str:
    """The metrics, those that are measured by default first."""
    if task is TaskType.PREFERENCE_TUNING:
        groups = losses_by_rows().values()
        return "; ".join(f"{' and '.join(losses)}: {', '.join(losses[0].row.metrics)}" for losses in groups)
    return _listed(row.measures) + (f"; with `multiLabel`: {_listed(row.multi_label)}" if row.multi_label else "")


def _listed(measures: Measures) -> str:
    return ", ".join(dict.fromkeys([*measures.default_metrics, *measures.metrics]))


def _methods() -> Iterator[str]:
    yield "## Methods"
    yield ""
    yield from _table(
        ("method", *(f"{task}, learning rate" for task in TASKS), "base model stored as", "result", "published as"),
        (
            (
                f"`{method}`",
                *(_rate(row, task) for task in TASKS),
                ", ".join(row.quantizations),
                row.result,
                ", ".join(exports_of(row.result)),
            )
            for method, row in METHODS.items()
        ),
    )
    yield ""
    yield from (f"- {line}" for line in _refusals())
    yield ""
    yield "Which model types a method works with is in [models.md](models.md)."
    yield ""


def _rate(row: MethodRow, task: TaskType) -> str:
    """The learning rate, and for which families, if not for all of the task."""
    families = row.families_for(task)
    if not families:
        return ""
    if not row.trains:
        return ", ".join(families)
    rate = rate_in_words(row.learning_rate_for(task))
    return rate if families == task.row.families else f"{rate} ({', '.join(families)})"


def _refusals() -> Iterator[str]:
    """What each method is not for, and why; equal reasons once."""
    found: dict[str, list[MethodType]] = {}
    for method, row in METHODS.items():
        cells = {f"`{task}`": why for task, why in row.refused.items()}
        for task, families in row.refused_families.items():
            cells |= {f"`{task}` with a {family} model": why for family, why in families.items()}
        for name, why in (
            ("`training.packing`", row.never_packed),
            ("`training.activationCheckpointing`", row.never_recomputed),
            ("ZeRO stage 3", row.never_partitioned),
            ("`model.quantization`", row.never_quantized),
            ("`model.adapter`", row.never_continued),
            ("`distillation`", row.never_distilled),
        ):
            cells |= {name: why} if why else {}
        for cell, why in cells.items():
            found.setdefault(f"not with {cell}, {why}.", []).append(method)
    for line, methods in found.items():
        yield f"{', '.join(f'`{method}`' for method in methods)}: {line}"


def _distillation() -> Iterator[str]:
    yield "## Distillation"
    yield ""
    yield from _table(
        ("task", *(f"mode `{mode}`" for mode in DistillationMode)),
        (
            (f"`{task}`", *("" if mode in row.not_distilled else "yes" for mode in DistillationMode))
            for task, row in TASKS.items()
        ),
    )
    yield ""
    reasons: dict[str, list[str]] = {}
    for task, row in TASKS.items():
        for mode, why in row.not_distilled.items():
            reasons.setdefault(f"`{task}`, {why}.", []).append(f"`{mode}`")
    yield from (f"- {' and '.join(modes)}: not with {line}" for line, modes in reasons.items())
    yield ""


def _exports() -> Iterator[str]:
    yield "## Exports"
    yield ""
    yield from _table(
        ("export", "made of", "what it is"),
        ((f"`{export}`", row.source, row.summary) for export, row in EXPORTS.items()),
    )
    yield ""


def _metrics() -> Iterator[str]:
    yield "## Metrics"
    yield ""
    yield from _table(
        ("metric", "name", "what it is", "better"),
        (
            (f"`{metric}`", row.title, row.meaning, "higher" if row.higher_is_better else "lower")
            for metric, row in METRICS.items()
        ),
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = list(head)
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def main(arguments: list[str] | None = None) -> int:
    return print_or_check("finetune_api.support", __doc__, support_matrix(), arguments)


if __name__ == "__main__":
    sys.exit(main())
