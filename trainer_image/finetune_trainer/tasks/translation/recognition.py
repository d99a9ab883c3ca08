"""Translation: recognises two columns, or one with texts by language, and the languages where names say them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from langcodes import Language, standardize_tag

from finetune_trainer.pairs.languages import UNDETERMINED, language_named, language_of
from finetune_trainer.prepare.readers import Values
from finetune_trainer.tasks.base import Recognised, known_name, several

_OPEN = "No column says the languages: replace und by that of the targets, such as de."
_CODE = re.compile(r"[A-Za-z]{2}([-_][A-Za-z]{4})?([-_][A-Za-z]{2})?")


def recognise(names: Sequence[str], rows: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    if both := known_name(("translation",), names):
        texts = [row[both] for row in rows if isinstance(row.get(both), Mapping)]
        keys = Counter(str(key) for by_language in texts for key in by_language)
        if several(len(texts), len(rows)):
            return _by_language(both, [key for key, count in keys.items() if several(count, len(texts))])
    source, target = known_name(("source", "src"), names), known_name(("target", "tgt", "trg"), names)
    if source and target:
        return Recognised(
            {"source": source, "target": target},
            "",
            "",
            certain=True,
            settings={"targetLanguage": UNDETERMINED},
            open=_OPEN,
        )
    languages = {name: tag for name in names if (tag := _tag(name)) and _has_texts(name, rows)}
    return _recognised(languages, lambda source, target: {"source": source, "target": target})


def _by_language(column: str, keys: Sequence[str]) -> Recognised | None:
    languages = {key: key for key in keys if _tag(key)}
    return _recognised(languages, lambda *_: {"translation": column}, f"texts in {', '.join(keys)}")


def _recognised(
    languages: Mapping[str, str], columns: Callable[[str, str], dict[str, str]], facts: str = ""
) -> Recognised | None:
    """The first two of ``languages``, the language of each name; None if there are fewer."""
    if len(languages) < 2:
        return None
    source, target = list(languages)[:2]
    settings = {"sourceLanguage": languages[source], "targetLanguage": languages[target]}
    return Recognised(columns(source, target), "", facts, certain=True, settings=settings)


def _has_texts(name: str, rows: Sequence[Values]) -> bool:
    """Whether a column has texts of several words: ``id`` is Indonesian, and more often an identifier."""
    return several(sum(len(str(row.get(name) or "").split()) > 1 for row in rows), len(rows))


def _tag(name: str) -> str | None:
    """The BCP-47 tag of a column that is named by a language: its code, such as ``de``, ``DE`` or ``de_DE``, that of
    NLLB, or its English name.

    Of the names, only those of languages with a code of two letters count: Label, Age and Gender are languages, too.
    """
    name = name.strip()
    if _CODE.fullmatch(name):
        found = language_of(standardize_tag(name))
    else:
        found = language_of(name) or language_named(name)
        if found and "_" not in name and (len(found.language or "") > 2 or not _is_name(found, name)):
            return None
    return None if found is None else str(found.to_tag())


def _is_name(language: Language, name: str) -> bool:
    """Whether ``name`` is the English name; the search also finds words of it."""
    return language.display_name().casefold() == name.casefold()
