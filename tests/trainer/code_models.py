"""Tiny models whose tokenizers keep white space."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.trainer.tiny_models import tiny_llama

SPECIAL = ["<pad>", "<end>", "<user>", "<bot>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
    "{% else %}<bot>{{ m['content'] }}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
TRIMMING_TEMPLATE = CHAT_TEMPLATE.replace("m['content'] }}", "m['content'] | trim }}")


def byte_level_tokenizer(texts: Iterable[str], template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every byte, and merges blanks as those for code do."""
    inner = Tokenizer(models.BPE(unk_token=None))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([*texts] * 20, trainer)
    return _with_specials(inner, template)


def marking_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as of Llama 2, which marks the start of a text with a blank that decoding strips."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "▁▁▁▁", "return", "▁return"]
    inner = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("▁", "▁"), ("▁▁", "▁▁")],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_specials(inner, None)


def _with_specials(inner: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        additional_special_tokens=SPECIAL[2:],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def save_llama_with(directory: Path, tokenizer: PreTrainedTokenizerFast, positions: int = 256) -> None:
    """A Llama of two layers."""
    wider = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 128}
    tiny_llama(tokenizer, **wider, max_position_embeddings=positions).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
