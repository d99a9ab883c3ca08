"""The tokenizer: prepare loads that of the base model, and later stages load the one in the prepared data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import TOKENIZER_DIRECTORY
from finetune_trainer.exceptions import first_line
from finetune_trainer.patches.transformers import fix_template_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Decode = Callable[[list[list[int]]], list[str]]
"""The texts of token ids, without special tokens."""


def load_base_tokenizer(directory: Path, model_uri: str, *, template: str | None = None) -> PreTrainedTokenizerFast:
    """Load the tokenizer of the model in ``directory``.

    ``template`` is the chat template of a tokenizer without one, with ``{bos}`` where a beginning-of-sequence token may
    be; None if no chat template is needed.

    ``tokenizer.json`` is loaded directly. Without that file, AutoTokenizer converts the tokenizer; its import takes
    seconds.

    Raises:
        StageFailure: BadConfiguration when the tokenizer cannot be loaded, or, with ``template``, when it has neither a
            chat template nor an end-of-sequence token, or several chat templates without a default.
    """
    tokenizer = _load(directory, model_uri)
    if template is None:
        return tokenizer
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and templates and "default" not in templates:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The tokenizer of {model_uri} has several chat templates ({', '.join(sorted(templates))[:200]}) and none "
            "is named default: rename the one to use",
        )
    if not tokenizer.chat_template:
        if tokenizer.eos_token is None:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"The tokenizer of {model_uri} has neither a chat template nor an end-of-sequence token, so it cannot "
                "end an answer: use a generative model, or add eos_token to tokenizer_config.json",
            )
        tokenizer.chat_template = with_begin(tokenizer, template)
    return tokenizer


def with_begin(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """The chat template ``template`` with the beginning-of-sequence token for ``{bos}``, if the tokenizer adds it."""
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return template.format(bos="{{- bos_token -}}" if begins else "")


def load_auto_tokenizer(directory: Path, model_uri: str, **settings: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the model in ``directory`` with its own class, which may be a slow one.

    ``settings`` are those of its class, such as ``src_lang``.

    Raises:
        StageFailure: BadConfiguration when it cannot be loaded.
    """
    from transformers import AutoTokenizer

    with _explained(f"The tokenizer of {model_uri} cannot be loaded", "add the files of its tokenizer to the model"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False, **settings
        )
    return tokenizer


def chat_templates(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """The chat template for conversations without tools, and that for conversations with tools."""
    return tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[])


def fix_date(tokenizer: PreTrainedTokenizerFast, template_date: str | None) -> None:
    """Make the chat templates say the date that the model was trained with, as `DataReport.template_date` has it."""
    if template_date:
        for template in chat_templates(tokenizer):
            fix_template_date(template, date.fromisoformat(template_date))


@contextmanager
def _explained(problem: str, remedy: str) -> Iterator[None]:
    """Convert any exception of the tokenizer libraries, which do not convert those of their parsers and of Rust.

    Raises:
        StageFailure: BadConfiguration.
    """
    try:
        yield
    except (StageFailure, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # A panic of Rust is no Exception.
        reason = first_line(error)[:200]
        raise StageFailure(Reason.BAD_CONFIGURATION, f"{problem} ({reason}): {remedy}") from error


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A copy of the `tokenizers.Tokenizer` of ``tokenizer`` that neither pads nor truncates."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return backend


def plain_decode(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Decodes with ``tokenizer``, without special tokens."""

    def decode(listed: list[list[int]]) -> list[str]:
        # transformers would otherwise remove spaces before punctuation if the tokenizer asks for it.
        texts: list[str] = tokenizer.batch_decode(listed, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return texts

    return decode


def encoding_explained() -> AbstractContextManager[None]:
    """Convert the exceptions of a tokenizer that cannot encode text, such as one whose unknown token is missing.

    Raises:
        StageFailure: BadConfiguration.
    """
    return _explained("The tokenizer of the model cannot encode the data", "correct its tokenizer.json")


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Save the tokenizer, so that AutoTokenizer of transformers 4 and 5 can load it."""
    with _explained("The tokenizer of the model cannot be saved", "correct its tokenizer_config.json"):
        tokenizer.save_pretrained(str(directory))
    path = directory / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text())
    # These depend on the machine, or only version 5 knows them.
    for name in ("name_or_path", "is_local", "local_files_only", "backend"):
        settings.pop(name, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def load_prepared_tokenizer(prepared: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer from ``prepared``, the directory of the prepared data."""
    return load_saved_tokenizer(prepared / TOKENIZER_DIRECTORY)


def load_saved_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that `save_tokenizer` has saved."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return tokenizer


def _load(directory: Path, model_uri: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    with _explained(f"The tokenizer of {model_uri} cannot be loaded", "add its tokenizer.json to the model"):
        if (directory / "tokenizer.json").is_file():
            exact: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
                str(directory), local_files_only=True
            )
            return exact
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The tokenizer of {model_uri} has no fast version: add its tokenizer.json to the model",
        )
    return tokenizer
