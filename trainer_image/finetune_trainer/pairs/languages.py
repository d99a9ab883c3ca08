"""The language codes of multilingual tokenizers, and how languages of the spec map to them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

import langcodes

from finetune_api.failures import Reason, StageFailure

_CODE = re.compile(r"[a-z]{2,3}_(?:[A-Z][a-z]{3}|[A-Z]{2})")
"""A code of NLLB (``eng_Latn``) or mBART (``en_XX``)."""
_MARKED = re.compile(r"__([a-z]{2,3})__|>>([A-Za-z_]+)<<")
"""A code of M2M100 (``__en__``) or of a Marian model with several targets (``>>deu<<``)."""
_TAG = re.compile(r"[a-z]{2,3}(?:-[A-Z][a-z]{3})?(?:-(?:[A-Z]{2}|[0-9]{3}))?", re.IGNORECASE)
"""A BCP-47 tag of language, script and region, in which case has no meaning."""
_ANY_REGION = "XX"
UNDETERMINED = "und"
"""The BCP-47 tag of a language that is not known."""
_MOST_LISTED = 12


def codes_of(tokenizer: Any) -> tuple[str, ...]:
    """The language codes that ``tokenizer`` can be set to, sorted; empty for a tokenizer without languages."""
    if hasattr(tokenizer, "set_src_lang_special_tokens"):
        tokens: Iterable[str] = (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())
    else:
        tokens = getattr(tokenizer, "supported_language_codes", ())
    return tuple(sorted({code for token in tokens if (code := _code(str(token)))}))


def _code(token: str) -> str | None:
    if _CODE.fullmatch(token):
        return token
    marked = _MARKED.fullmatch(token)
    return (marked[1] or marked[2]) if marked else None


def code_for(language: str | None, field: str, codes: Collection[str], model_uri: str) -> str:
    """The code of a model for a language.

    Args:
        language: A code of the model, or a BCP-47 tag, such as ``de`` or ``zh-Hant``.
        field: The field of the spec with the language, for messages.
        codes: The codes of the model.
        model_uri: The address of the model, for messages.

    Raises:
        StageFailure: BadConfiguration when the language is missing, unknown to the model, or several codes fit it.
    """
    if language is None:
        raise _bad(f"{model_uri} translates between many languages, so it needs {field}: one of {_listed(codes)}")
    if language in codes:
        return language
    fitting = sorted(code for code in codes if _fits(code, language))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise _bad(f"{field} {language!r} may be {' or '.join(fitting)} for {model_uri}: set one of them")
    near = get_close_matches(language, codes, n=4, cutoff=0.4)
    raise _bad(
        f"{field} {language!r} is no language of {model_uri}: set one of {_listed([*near, *(set(codes) - set(near))])}"
    )


def check_languages(languages: tuple[str | None, str | None]) -> None:
    """Check the languages of source and target for a model that has no codes of its own.

    Raises:
        StageFailure: BadConfiguration when one is no language, or both are the same.
    """
    fields = ("task.sourceLanguage", "task.targetLanguage")
    found = [None if name is None else _known(name, field) for name, field in zip(languages, fields, strict=True)]
    if found[0] is not None and found[0] == found[1]:
        raise _bad(
            f"{fields[0]} and {fields[1]} are both {languages[1]!r}: correct one of them, or leave {fields[0]} out"
        )


def _known(name: str, field: str) -> langcodes.Language:
    found = language_of(name)
    if found is not None and found.language not in (None, UNDETERMINED):
        return found
    named = None if found else language_named(name)
    hint = f"; {name} is {named.to_tag()}" if named else ""
    raise _bad(f"{field} {name!r} is no language{hint}: set a BCP-47 tag such as de, en-GB or zh-Hant")


def language_of(name: str) -> langcodes.Language | None:
    """A BCP-47 tag or the code of a model as a language; None if it is neither."""
    if not (_TAG.fullmatch(name) or _CODE.fullmatch(name)):
        return None
    found = langcodes.Language.get(name.replace("_", "-").removesuffix(f"-{_ANY_REGION}"))
    return found.prefer_macrolanguage() if found.is_valid() else None


def language_named(name: str) -> langcodes.Language | None:
    """As `language_of`, and also by its English name, such as ``Japanese``."""
    try:
        return language_of(name) or langcodes.find(name).prefer_macrolanguage()
    except LookupError:
        return None


def display_name(name: str) -> str:
    """A language in English, such as ``German``; ``name`` itself if it is no language code."""
    found = language_of(name)
    return name if found is None else found.display_name()


def _fits(code: str, language: str) -> bool:
    """Whether ``code`` stands for ``language``, and for the script or the region that this has."""
    ours, theirs = language_of(language), language_of(code)
    if ours is None or theirs is None or ours.language != theirs.language:
        return False
    script = ours.script or (ours.maximize().script if ours.territory else None)
    if script and theirs.script and script != theirs.script:
        return False
    return not (ours.territory and theirs.territory and ours.territory != theirs.territory)


def _listed(codes: Iterable[str]) -> str:
    found = list(codes)
    return ", ".join(found[:_MOST_LISTED]) + (f" … ({len(found)} in all)" if len(found) > _MOST_LISTED else "")


def _bad(message: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, message)
