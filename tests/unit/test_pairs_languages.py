"""Languages of the spec as codes of multilingual tokenizers."""

from __future__ import annotations

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.pairs.languages import check_languages, code_for, codes_of, display_name

NLLB = ("arb_Arab", "deu_Latn", "eng_Latn", "fra_Latn", "por_Latn", "zho_Hans", "zho_Hant")
MBART = ("ar_AR", "de_DE", "en_XX", "pt_XX", "zh_CN")
FIELD = "task.targetLanguage"


class Tokenizer:
    """What `codes_of` reads of a tokenizer."""

    def __init__(self, *tokens: str, languages: bool = True) -> None:
        self.all_special_tokens = list(tokens)
        if languages:
            self.set_src_lang_special_tokens = lambda _: None
        else:
            self.supported_language_codes = list(tokens)

    def get_added_vocab(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize(
    ("tokenizer", "codes"),
    [
        (Tokenizer("<s>", "deu_Latn", "eng_Latn"), ("deu_Latn", "eng_Latn")),
        (Tokenizer("</s>", "de_DE", "en_XX"), ("de_DE", "en_XX")),
        (Tokenizer("<unk>", "__de__", "__en__"), ("de", "en")),
        (Tokenizer(">>deu<<", ">>cmn_Hans<<", languages=False), ("cmn_Hans", "deu")),
        (object(), ()),
    ],
)
def test_codes_are_those_of_the_tokenizer(tokenizer: object, codes: tuple[str, ...]) -> None:
    assert codes_of(tokenizer) == codes


@pytest.mark.parametrize(
    ("codes", "language", "code"),
    [
        *((NLLB, name, "deu_Latn") for name in ("deu_Latn", "deu", "de", "DE", "de-AT", "de-at")),
        *((NLLB, name, "zho_Hant") for name in ("zh-Hant", "zh-TW")),
        (NLLB, "ar", "arb_Arab"),
        (NLLB, "pt-BR", "por_Latn"),
        (MBART, "en", "en_XX"),
        (MBART, "zh", "zh_CN"),
        (MBART, "pt-BR", "pt_XX"),
        (("de", "en"), "deu", "de"),
    ],
)
def test_a_language_becomes_the_only_code_that_fits(codes: tuple[str, ...], language: str, code: str) -> None:
    assert code_for(language, FIELD, codes, "s3://m") == code


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("zh", "task.targetLanguage 'zh' may be zho_Hans or zho_Hant for s3://m: set one of them"),
        ("de_DEU", "task.targetLanguage 'de_DEU' is no language of s3://m: set one of deu_Latn, "),
        ("german", "task.targetLanguage 'german' is no language of s3://m: set one of "),
        (None, "s3://m translates between many languages, so it needs task.targetLanguage: one of arb_Arab, "),
    ],
)
def test_other_languages_are_refused_with_the_codes_of_the_model(language: str | None, sentence: str) -> None:
    with pytest.raises(StageFailure) as refused:
        code_for(language, FIELD, NLLB, "s3://m")
    assert refused.value.reason is Reason.BAD_CONFIGURATION
    assert refused.value.message.startswith(sentence)


@pytest.mark.parametrize(
    ("languages", "sentence"),
    [
        (("en", "german"), "task.targetLanguage 'german' is no language; german is de: set a BCP-47 tag such as de"),
        (("xx", "de"), "task.sourceLanguage 'xx' is no language: set"),
        ((None, "und"), "task.targetLanguage 'und' is no language: set"),
        (("de", "de"), "task.sourceLanguage and task.targetLanguage are both 'de'"),
    ],
)
def test_languages_are_checked_for_a_model_without_codes(languages: tuple[str | None, str], sentence: str) -> None:
    with pytest.raises(StageFailure) as refused:
        check_languages(languages)
    assert refused.value.reason is Reason.BAD_CONFIGURATION
    assert refused.value.message.startswith(sentence)


def test_languages_and_their_variants_are_accepted() -> None:
    for languages in ((None, "de"), ("en-GB", "en-US"), ("eng_Latn", "zh-Hant"), ("pt", "deu")):
        check_languages(languages)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("de", "German"), ("eng_Latn", "English"), ("zh-Hant", "Chinese (Traditional)"), ("Platt", "Platt")],
)
def test_a_language_has_its_english_name_in_a_prompt(name: str, shown: str) -> None:
    assert display_name(name) == shown
