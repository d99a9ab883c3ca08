"""Tiny real models with an encoder and a decoder, and their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of ``texts``, and appends no end token."""
    words = dict.fromkeys(word for text in texts for word in text.split())
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, unk_token=UNKNOWN, eos_token=END)


def save_t5(directory: Path, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A T5 of two layers with its tokenizer, which is returned."""
    tokenizer = word_tokenizer(texts)
    save_t5_with(directory, tokenizer, width=48)
    return tokenizer


def save_t5_with(directory: Path, tokenizer: PreTrainedTokenizerFast, width: int) -> None:
    """A T5 of two layers with ``tokenizer``."""
    torch.manual_seed(5)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        initializer_factor=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def save_nllb(directory: Path, texts: Iterable[str], codes: Iterable[str]) -> NllbTokenizer:
    """An M2M100 of two layers with an NLLB tokenizer, which is returned. It knows every character of ``texts``."""
    characters = sorted({character for text in texts for character in text if not character.isspace()})
    pieces = ["<s>", PAD, END, UNKNOWN, "▁", *characters]
    tokenizer = NllbTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens=list(codes),
    )
    torch.manual_seed(6)
    config = M2M100Config(
        vocab_size=len(tokenizer),
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=128,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    M2M100ForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return tokenizer


def save_marian(directory: Path, sources: list[str], targets: list[str]) -> None:
    """A Marian model of two layers, whose SentencePiece models for source and target differ."""
    import sentencepiece

    directory.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, int] = {END: 0, UNKNOWN: 1}
    for name, texts in (("source", sources), ("target", targets)):
        written = directory / f"{name}.txt"
        written.write_text("\n".join(texts * 20))
        sentencepiece.SentencePieceTrainer.train(
            input=str(written),
            model_prefix=str(directory / name),
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (directory / f"{name}.model").rename(directory / f"{name}.spm")
        model = sentencepiece.SentencePieceProcessor(model_file=str(directory / f"{name}.spm"))
        for piece in (model.id_to_piece(index) for index in range(model.get_piece_size())):
            pieces.setdefault(piece, len(pieces))
        for left in (written, directory / f"{name}.vocab"):
            left.unlink()
    pieces[PAD] = len(pieces)
    (directory / "vocab.json").write_text(json.dumps(pieces))
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(7)
    config = MarianConfig(
        vocab_size=len(pieces),
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=128,
        pad_token_id=pieces[PAD],
        eos_token_id=0,
        forced_eos_token_id=0,
        decoder_start_token_id=pieces[PAD],
    )
    MarianMTModel(config).save_pretrained(directory)
