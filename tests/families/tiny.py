"""Tiny random models of every model type of transformers: the defaults of its configuration, with small sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

VOCABULARY = 128
LABELS = ("first", "second", "third")
PAD, BOS, EOS = 0, 1, 2

_HIDDEN, _HEADS, _HEAD, _WIDE, _LAYERS = 64, 4, 16, 128, 4
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "embedding_size", "emb_dim"), _HIDDEN),
    **dict.fromkeys(("embed_dim", "hidden_dim", "dim", "attention_hidden_size", "lru_width", "rnn_dim"), _HIDDEN),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), _HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_decoder_attention_heads", "swa_num_attention_heads", "num_attn_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "d_kv", "global_head_dim", "attention_head_dim", "d_head"), _HEAD),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "d_inner", "dff"), _WIDE),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "dim_ff", "intermediate_size_mlp"), _WIDE),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_blocks"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("max_target_positions", "max_source_positions"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "n_group"), 2),
    **dict.fromkeys(("topk_group", "n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "moe_ffn_hidden_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim"), _HEAD),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("index_n_heads", "attn_layer_offset", "expert_layer_offset"), 1),
    **dict.fromkeys(("attn_layer_period", "expert_layer_period", "num_memory_blocks", "mamba_expand", "expand"), 2),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state", "state_size", "ssm_state_size"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "mamba_d_ssm"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "index_head_dim"), _HEAD),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention"), 32),
    "qk_rope_head_dim": _HEAD,
    "rotary_dim": 8,
    "index_topk": 16,
    "mamba_d_ssm": 128,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    "initializer_range": 0.1,
    "init_std": 0.1,
    "embed_init_std": 0.1,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "image_size": 32,
    "patch_size": 16,
    "is_decoder": True,
    "tie_word_embeddings": False,
    "use_cache": True,
}
"""Sizes by the name of a field; families whose configuration has other names keep their defaults."""

_INDEXER = {
    **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": _HEAD, "indexer_budget": 16},
    **{"indexer_compress_ratio": 4, "hc_count": 2, "hc_lowrank": 8, "ngram_vocab_size_base": 100},
}
_SPECIAL: dict[str, dict[str, Any]] = {
    "big_bird": {"sep_token_id": EOS},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots3_note": {"num_key_value_heads": _HEADS},
    "dots3_note_text": {"num_key_value_heads": _HEADS},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "layoutlmv3": {"coordinate_size": 12, "shape_size": 8, "input_size": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "lilt": {"hidden_size": 96},
    "mamba2": {"num_heads": 8},
    "reformer": {
        "attention_head_size": _HEAD,
        "axial_pos_embds_dim": [16, 48],
        "axial_pos_shape": [16, 16],
        "feed_forward_size": _WIDE,
    },
    "mt5": {"decoder_start_token_id": PAD},
    "t5": {"decoder_start_token_id": PAD},
    "umt5": {"decoder_start_token_id": PAD},
    "qwen4_exp_text": _INDEXER,
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 2 * _HIDDEN, "attention_head_dim": 2 * _HEAD, "num_key_value_heads": _HEADS},
    "roc_bert": {"pronunciation_vocab_size": VOCABULARY, "shape_vocab_size": VOCABULARY},
}
"""Fields that a model type needs in addition."""


_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "falcon": [{"alibi": True}, {"new_decoder_architecture": True}],
}
"""Values of config.json that change how a model type attends, beside its defaults."""


_START_WITH_PADDING = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "marian", "pegasus", "pegasus_x")
"""Model types whose decoder starts with the padding token; the others start with the end token."""


def variants_of(model_type: str) -> list[dict[str, Any]]:
    """The fields of each variant of a model type; the first are its defaults."""
    return [{}, *_VARIANTS.get(model_type, [])]


def config_of(model_type: str, task: str, variant: dict[str, Any]) -> PreTrainedConfig:
    """The small configuration of a model type.

    Args:
        model_type: Such as ``llama``.
        task: PEFT task type, such as CAUSAL_LM.
        variant: One of `variants_of`.
    """
    config_class = type(AutoConfig.for_model(model_type))
    values = _small(config_class) | variant
    if task != "CAUSAL_LM":
        values.pop("is_decoder", None)
    if task == "SEQ_2_SEQ_LM":
        start = PAD if model_type in _START_WITH_PADDING else EOS
        values |= {"is_encoder_decoder": True, "decoder_start_token_id": start, "forced_bos_token_id": None}
    if task == "SEQ_CLS":
        values |= {"id2label": {index: f"LABEL_{index}" for index in range(len(LABELS))}}
        values |= {"label2id": {f"LABEL_{index}": index for index in range(len(LABELS))}}
    config: PreTrainedConfig = config_class(**values)
    return config


def build(config: PreTrainedConfig, auto_class: Any) -> PreTrainedModel:
    """A model with random weights."""
    torch.manual_seed(0)
    model: PreTrainedModel = auto_class.from_config(config)
    return model.float().eval()


def _small(config_class: Any) -> dict[str, Any]:
    """The small values of the fields that a configuration class has, and of its parts."""
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    values = {name: _SIZES[name] for name in fields if name in _SIZES}
    if "kv_lora_rank" in fields:  # Multi-head latent attention has as many key and value heads as query heads.
        values |= {"num_key_value_heads": _HEADS}
    defaults = _defaults(config_class)
    for name in fields:
        default = defaults.get(name)
        if isinstance(default, list) and default and all(isinstance(item, str) for item in default):
            values[name] = _each_kind(default)
    for name in getattr(config_class, "sub_configs", {}):
        part = defaults.get(name)
        if isinstance(part, PreTrainedConfig):
            values[name] = {"model_type": part.model_type} | _small(type(part))
    return values | _SPECIAL.get(config_class.model_type, {})


def _defaults(config_class: Any) -> dict[str, Any]:
    try:
        return dict(vars(config_class()))
    except Exception:  # The defaults of some configuration classes are not valid.
        return {}


def _each_kind(layers: list[str]) -> list[str]:
    """The kinds of layers, each at least once, for all layers of a small model."""
    kinds = list(dict.fromkeys(layers))
    return (kinds * _LAYERS)[: max(_LAYERS, len(kinds))]
