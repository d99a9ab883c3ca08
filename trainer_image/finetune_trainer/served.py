"""Stands in for the files of a model behind an endpoint, so that data is prepared for it as for a model here.

Nothing is known of its tokens. Those of this tokenizer are bytes: they only limit and count texts.
"""

from __future__ import annotations

import json
from pathlib import Path

from finetune_api.spec import ModelSpec
from finetune_trainer.prepared import ModelIdentity

LONGEST = 1 << 22
"""Most bytes of a text, unless training.maxSequenceLength says another number. The endpoint limits its tokens."""

_END = "<end>"
_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<end>{% else %}\n\n{% endif %}{% endfor %}"
)


def write_stand_in(directory: Path) -> Path:
    """Write configuration and tokenizer to ``directory``, which is returned."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: index for index, sign in enumerate([*alphabet, _END])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_END])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "pad_token": _END,
        "chat_template": _TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    # A decoder of any type.
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": len(vocabulary)}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def identity_of(model: ModelSpec) -> ModelIdentity:
    """What is known of the model: its address."""
    assert model.endpoint is not None
    return ModelIdentity(
        uri=model.address,
        revision=f"endpoint:{model.endpoint.model}",
        architecture="behind an endpoint",
        parameters=0,
        max_positions=None,
    )
