"""Translation: recognises two columns, or one with texts by language, and the languages where names say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

from finetune_trainer.pairs.languages import UNDETERMINED, language_named
from finetune_trainer.prepare.readers import Values
from finetune_trainer.tasks.base import Recognised, known_name

_OPEN = "No column says the languages: replace und by that of the {what}, such as de."


def recognise(names: Sequence[str], rows: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    if (both := known_name(("translation",), names)) and rows and isinstance(rows[0].get(both), Mapping):
        return _by_language(both, [str(key) for key in rows[0][both]])
    source, target = known_name(("source", "src"), names), known_name(("target", "tgt", "trg"), names)
    if source and target:
        return Recognised(
            {"source": source, "target": target},
            "",
            "",
            certain=True,
            settings={"targetLanguage": UNDETERMINED},
            open=_OPEN.format(what="targets"),
        )
    languages = {name: tag for name in names if (tag := _tag(name)) and _has_texts(name, rows)}
    for source, target in permutations(languages, 2):
        return Recognised(
            {"source": source, "target": target}, "", "", certain=True, settings=_settings(languages, source, target)
        )
    return None


def _by_language(column: str, keys: Sequence[str]) -> Recognised | None:
    languages = {key: key for key in keys if _tag(key)}
    if len(languages) < 2:
        return None
    source, target = list(languages)[:2]
    return Recognised(
        {"translation": column},
        "",
        f"texts in {', '.join(keys)}",
        certain=True,
        settings=_settings(languages, source, target),
    )


def _settings(languages: Mapping[str, str], source: str, target: str) -> dict[str, str]:
    return {"sourceLanguage": languages[source], "targetLanguage": languages[target]}


def _has_texts(name: str, rows: Sequence[Values]) -> bool:
    """Whether a column has texts: ``id`` is Indonesian, and more often a number."""
    values = [str(row[name]) for row in rows if row.get(name) is not None]
    return any(any(sign.isalpha() for sign in value) for value in values)


def _tag(name: str) -> str | None:
    """The BCP-47 tag of a column that is named by a language, such as ``de``, ``de_DE`` or ``German``."""
    found = language_named(name.strip().replace("_", "-")) if 2 <= len(name.strip()) <= 20 else None
    return None if found is None else str(found.to_tag())
