"""Rows of Translation: a source and a target column, or one column with both by language code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.pairs.languages import language_of
from finetune_trainer.pairs.rows import Pair, PairRows, PairSchema
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, type_name
from finetune_trainer.prepare.readers.written import written
from finetune_trainer.prepare.rows import checked, value_of


@dataclass(frozen=True)
class ByLanguage:
    """Reads rows with an object such as ``{"en": "Good morning.", "de": "Guten Morgen."}``."""

    column: str
    source_language: str
    target_language: str
    optional: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("translation",)

    def example(self, values: Values) -> Pair:
        return Pair(self.source(values), self._text(values, self.target_language))

    def source(self, values: Values) -> str:
        return self._text(values, self.source_language)

    def _text(self, values: Values, language: str) -> str:
        texts = value_of(values, self.column, "translation")
        if isinstance(texts, str):
            texts = written(texts) or texts
        if not isinstance(texts, dict):
            raise BadRow(f"column '{self.column}' contains {type_name(texts)}, not an object; correct the row")
        wanted = language_of(language)
        fitting = [key for key in texts if key == language or (wanted and language_of(key) == wanted)]
        if not fitting:
            keys = ", ".join(f"'{key[:20]}'" for key in texts)
            raise BadRow(
                f"column '{self.column}' has no text in {language!r} (languages: {keys or 'none'}); set "
                "task.sourceLanguage and task.targetLanguage to two of them"
            )
        return checked(texts[fitting[0]], f"{fitting[0]!r} in column '{self.column}'")


def schema_for(spec: FineTuneJobSpec, names: Sequence[str], fields: tuple[str, str]) -> PairSchema:
    """The row schema for rows with columns ``names``: set by the spec, or else detected.

    Raises:
        StageFailure: BadConfiguration when the languages of a column with both are not set.
    """
    columns = spec.dataset.columns
    pairs = PairRows((columns.name(fields[0]), columns.name(fields[1])), fields)
    both = columns.name("translation")
    if columns.given("translation") is None and (both not in names or set(pairs.needed) <= set(names)):
        return pairs
    source, target = spec.task.source_language, spec.task.target_language
    if source is None or target is None:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"Column '{both}' has texts by language: set task.sourceLanguage and task.targetLanguage",
        )
    return ByLanguage(both, source, target)
