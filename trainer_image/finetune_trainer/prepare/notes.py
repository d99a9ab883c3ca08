"""What the user should know about the data of any task, as clauses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import MOST_NOTES, NOTE_LENGTH
from finetune_api.tables.tasks import ModelFamily
from finetune_api.vocabulary import Deduplication
from finetune_trainer.prepare.problems import percent
from finetune_trainer.prepare.read import DataSet
from finetune_trainer.prepared import ModelIdentity, SplitReport, positions_left
from finetune_trainer.train.settings import plan_training

_MANY_TRUNCATED = 0.05
_FEW_STEPS = 20


def generation_limits(spec: FineTuneJobSpec, family: ModelFamily, length: int, model: ModelIdentity) -> list[str]:
    """Whether the answers that the evaluation generates may be limited by the positions of the model."""
    new_tokens, limit = spec.evaluation.generation.max_new_tokens, positions_left(model, spec.method.virtual_tokens)
    # The source of a model with an encoder and a decoder takes none of the positions of its answer.
    needed = new_tokens if family is ModelFamily.SEQ2SEQ else length + new_tokens
    if family not in spec.task.type.row.generates or limit is None or needed <= limit:
        return []
    return [f"answers are generated up to the {limit:,} positions of the model, also if maxNewTokens allows more"]


def unknown_tokens(sets: Mapping[str, DataSet]) -> list[str]:
    """How much of the text the tokenizer does not know."""
    unknown = sum(data.unknown_tokens for data in sets.values())
    tokens = sum(int(data.lengths.sum()) for data in sets.values())
    return [f"{percent(unknown / tokens)} of the tokens are unknown to the tokenizer of the model"] if unknown else []


def contradictions(count: int, deduplicate: Deduplication) -> list[str]:
    """How many rows contradict an earlier one, and what becomes of them."""
    if not count:
        return []
    kept = " (deduplicate: None)" if deduplicate is Deduplication.NONE else ""
    return [
        f"{count:,} row{'s have' if count > 1 else ' has'} the text of an earlier row but another label or choice, and "
        f"{'are' if count > 1 else 'is'} {'kept' if kept else 'dropped'}{kept}"
    ]


def truncations(splits: Mapping[str, SplitReport], length: int, limit: int | None) -> list[str]:
    """A warning if so many texts are truncated that the model, of ``limit`` positions, may miss what matters."""
    rows = sum(split.examples for split in splits.values())
    truncated = sum(split.truncated for split in splits.values())
    if truncated <= _MANY_TRUNCATED * rows:
        return []
    return [
        f"{percent(truncated / rows)} of the texts are truncated to {length:,} tokens; "
        + ("the model supports no more" if length == limit else "raise training.maxSequenceLength")
    ]


def few_steps(spec: FineTuneJobSpec, train: SplitReport, length: int, *, packing: bool) -> list[str]:
    """A warning if the training has so few steps that a model may learn too little, and the job does not set them.

    Args:
        spec: The spec of the job.
        train: Statistics of the training split.
        length: Tokens of the longest row.
        packing: Whether several examples share a row.
    """
    training = spec.training
    joined = packing or spec.task.type.row.joins
    if not spec.method.type.row.trains or training.max_steps or (training.epochs and not joined):
        return []
    rows = max(1, math.ceil(train.tokens / length) if joined else train.examples)
    steps = plan_training(spec, rows, processes=1, batching=True).steps
    if steps >= _FEW_STEPS:
        return []
    few = f"the training has only {'about ' if joined else ''}{steps} steps, in which a model may learn too little"
    ways = [f"lower training.batchSize, which is {training.batch_size}"] if training.batch_size > 1 else []
    if joined:
        few += f", because {train.examples:,} examples are packed into about {rows} row{'s' if rows > 1 else ''}"
        ways.append("set training.packing to false" if packing else "lower training.maxSequenceLength")
    else:
        ways.append("raise training.epochs")
    return [f"{few}: {', or '.join(ways)}"]


def status_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """The first notes, as short as a status has them. The last one says how many others there are, and where."""
    shown = [note if len(note) <= NOTE_LENGTH else f"{note[: NOTE_LENGTH - 1]}…" for note in notes[:MOST_NOTES]]
    if len(notes) > MOST_NOTES:
        more = len(notes) - MOST_NOTES + 1
        shown[-1] = f"and {more:,} more notes: see the log of prepare, or data.json beside the prepared data"
    return tuple(shown)
