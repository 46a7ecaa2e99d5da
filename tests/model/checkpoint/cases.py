"""Settings of the reference library: each model type, and every key of it that changes what is computed.

Sizes are awkward on purpose: equal ones hide transpositions. A name is the model type, then what is special.
"""

from __future__ import annotations

from typing import Any

Case = tuple[str, dict[str, Any]]  # (configuration class without "Config", its arguments)

GPT = {"vocab_size": 97, "n_positions": 64, "n_embd": 36, "n_layer": 3, "n_head": 6, "n_inner": 50}
BASE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 50,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
WIDE = BASE | {"hidden_size": 42, "head_dim": 10}  # heads wider than their share of the width
OPT = {
    "vocab_size": 97,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "ffn_dim": 50,
    "max_position_embeddings": 64,
    "num_attention_heads": 6,
}
BLOOM = {"vocab_size": 97, "hidden_size": 36, "n_layer": 3, "n_head": 6}
MPT = {"vocab_size": 97, "d_model": 36, "n_layers": 3, "n_heads": 6, "max_seq_len": 64}
FALCON = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "ffn_hidden_size": 50,
}
SPARSE = {"num_experts": 5, "num_experts_per_tok": 2}
MULTIPLIED = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
}
LATENT = BASE | {
    "hidden_size": 42,
    "num_key_value_heads": 6,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 14,
    "q_lora_rank": 22,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
}
DBRX_ROPE = {"rope_type": "default", "rope_theta": 2e4}
DBRX = {
    "vocab_size": 97,
    "d_model": 48,
    "n_heads": 6,
    "n_layers": 3,
    "max_seq_len": 64,
    "rope_parameters": DBRX_ROPE,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 2.0, "rope_theta": 2e4},
    "ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": 5, "moe_top_k": 2, "hidden_size": 48},
}


def plain(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4} | more


def linear(**more: Any) -> dict[str, Any]:
    return {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4} | more


def yarn(**more: Any) -> dict[str, Any]:
    return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4} | more


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 5e5,
}
ALTERNATE = ["sliding_attention", "full_attention"] * 2


def variants(kind: str, base: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Case]:
    """The base settings under the empty name, and each change of them; the names get the model type before them."""
    return {name: (kind, base | change) for name, change in changes.items()}


FAMILIES: dict[str, dict[str, Case]] = {
    "gpt2": variants(
        "GPT2",
        GPT,
        plain={},
        scaled_by_layer={"scale_attn_by_inverse_layer_idx": True},
        unscaled={"scale_attn_weights": False, "activation_function": "relu", "n_inner": None},
        untied={"tie_word_embeddings": False, "reorder_and_upcast_attn": True},
    ),
    "gpt_bigcode": variants("GPTBigCode", GPT, plain={}, multi_head={"multi_query": False}),
    "opt": variants(
        "OPT",
        OPT,
        plain={},
        norm_after={"do_layer_norm_before": False},
        narrow_embedding={"word_embed_proj_dim": 20, "do_layer_norm_before": False},
        no_biases={"enable_bias": False, "layer_norm_elementwise_affine": False},
        no_last_norm={"_remove_final_layer_norm": True},
        untied={"tie_word_embeddings": False},
    ),
    "gpt_neox": variants(
        "GPTNeoX",
        BASE | {"num_key_value_heads": None},
        plain={},
        sequential={
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_fast",
            "rope_parameters": plain(rope_theta=3e4, partial_rotary_factor=0.75),
        },
        odd_part={"rope_parameters": plain(partial_rotary_factor=0.7)},
        linear_tied={"rope_parameters": linear(partial_rotary_factor=0.5), "tie_word_embeddings": True},
    ),
    "gptj": variants(
        "GPTJ",
        GPT | {"n_embd": 48, "rotary_dim": 4},
        plain={},
        whole_head={"tie_word_embeddings": True, "rotary_dim": 8},
    ),
    "bloom": variants("Bloom", BLOOM, plain={}, twelve_heads={"n_head": 12, "hidden_size": 48}),
    "mpt": variants("Mpt", MPT, plain={}, clipped={"attn_config": {"clip_qkv": 0.8, "softmax_scale": 0.3}}),
    "falcon": variants(
        "Falcon",
        FALCON,
        plain={},
        grouped={"num_kv_heads": 2, "new_decoder_architecture": True},
        grouped_one_norm={
            "num_kv_heads": 3,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "rope_parameters": linear(),
        },
        alibi={"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        multi_head={"multi_query": False, "bias": True},
        sequential={"parallel_attn": False},
        untied={"tie_word_embeddings": False, "ffn_hidden_size": None},
    ),
    "llama": variants(
        "Llama",
        WIDE,
        plain={},
        biases={"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        llama3={"rope_parameters": LLAMA3},
        yarn={"rope_parameters": yarn()},
        yarn_all_keys={"rope_parameters": yarn(attention_factor=1.3, beta_fast=20.0, beta_slow=2.0, truncate=False)},
        linear={"rope_parameters": linear(), "hidden_act": "gelu", "num_key_value_heads": 6},
        dynamic={"rope_parameters": plain(rope_type="dynamic", factor=3.0)},
    ),
    "mistral": variants(
        "Mistral",
        WIDE,
        plain={"sliding_window": 5},
        no_window={"sliding_window": None, "head_dim": None, "hidden_size": 48},
    ),
    "mixtral": variants(
        "Mixtral",
        WIDE | {"num_local_experts": 5},
        plain={},
        window={"sliding_window": 6, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        three_experts={"num_experts_per_tok": 3},
    ),
    "qwen2": variants(
        "Qwen2",
        BASE,
        plain={},
        upper_windows={"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        mixed_windows={
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ALTERNATE,
            "tie_word_embeddings": True,
            "rope_parameters": yarn(),
        },
    ),
    "qwen2_moe": variants(
        "Qwen2Moe",
        BASE | SPARSE | {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 28},
        plain={},
        every_second={"decoder_sparse_step": 2, "norm_topk_prob": True, "qkv_bias": False},
        some_dense={
            "mlp_only_layers": [0, 2],
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 3,
        },
    ),
    "qwen3": variants(
        "Qwen3",
        WIDE,
        plain={},
        windows={
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_moe": variants(
        "Qwen3Moe",
        WIDE | SPARSE | {"moe_intermediate_size": 20},
        plain={},
        windows={
            "use_sliding_window": True,
            "sliding_window": 4,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
            "attention_bias": True,
        },
    ),
    "gemma": variants("Gemma", WIDE, plain={}, gelu_means_tanh={"attention_bias": True, "hidden_act": "gelu"}),
    "gemma2": variants(
        "Gemma2",
        WIDE | {"sliding_window": 5},
        plain={},
        uncapped={
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "query_pre_attn_scalar": 40,
            "attention_bias": True,
        },
        tight_caps={"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3_text": variants(
        "Gemma3Text",
        WIDE | {"sliding_window": 5},
        plain={},
        two_rotations={
            "layer_types": ALTERNATE,
            "rope_parameters": {
                "full_attention": linear(rope_theta=1e6, factor=8.0),
                "sliding_attention": plain(rope_theta=3e3),
            },
            "final_logit_softcapping": 4.0,
        },
    ),
    "phi": variants(
        "Phi",
        BASE,
        plain={},
        qk_norm={"qk_layernorm": True, "rope_parameters": plain(partial_rotary_factor=0.25)},
        tied={"tie_word_embeddings": True},
    ),
    "phi3": variants(
        "Phi3", BASE, plain={}, window={"sliding_window": 5, "rope_parameters": plain(partial_rotary_factor=0.75)}
    ),
    "olmo": variants(
        "Olmo", BASE, plain={}, clipped={"clip_qkv": 0.9, "attention_bias": True, "tie_word_embeddings": True}
    ),
    "olmo2": variants("Olmo2", BASE, plain={}, biases={"attention_bias": True, "rope_parameters": linear()}),
    "olmo3": variants(
        "Olmo3",
        BASE | {"sliding_window": 5},
        plain={},
        yarn={
            "layer_types": ALTERNATE,
            "rope_parameters": {"full_attention": yarn(rope_theta=5e5), "sliding_attention": plain(rope_theta=5e5)},
        },
    ),
    "olmoe": variants("Olmoe", BASE | SPARSE, plain={}, normalised={"norm_topk_prob": True, "attention_bias": True}),
    "granite": variants(
        "Granite",
        BASE | MULTIPLIED,
        plain={},
        biases={"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "granitemoe": variants(
        "GraniteMoe",
        BASE | MULTIPLIED | {"num_local_experts": 5, "num_experts_per_tok": 2},
        plain={},
        biases={"attention_bias": True, "num_experts_per_tok": 3, "tie_word_embeddings": True},
    ),
    "deepseek_v2": variants(
        "DeepseekV2",
        LATENT | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5},
        plain={},
        no_groups={
            "topk_method": "greedy",
            "n_group": None,
            "topk_group": None,
            "q_lora_rank": None,
            "mlp_bias": True,
            "attention_bias": True,
        },
        yarn={"rope_parameters": yarn(mscale=0.707, mscale_all_dim=0.707), "norm_topk_prob": True},
    ),
    "deepseek_v3": variants(
        "DeepseekV3",
        LATENT,
        plain={},
        yarn={
            "rope_parameters": yarn(mscale=1.0, mscale_all_dim=0.8),
            "attention_bias": True,
            "n_group": 1,
            "topk_group": 1,
        },
        half_rotation={
            "rope_interleave": False,
            "q_lora_rank": None,
            "norm_topk_prob": False,
            "first_k_dense_replace": 0,
            "rope_parameters": yarn(mscale_all_dim=1.0),
        },
    ),
    "cohere": variants(
        "Cohere",
        BASE,
        plain={},
        qk_norm={"use_qk_norm": True, "attention_bias": True},
        untied={"tie_word_embeddings": False, "logit_scale": 0.7},
    ),
    "cohere2": variants(
        "Cohere2",
        BASE | {"sliding_window": 5},
        plain={},
        mixed={"layer_types": ALTERNATE[::-1], "attention_bias": True},
    ),
    "gpt_oss": variants(
        "GptOss",
        WIDE | {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 5},
        plain={},
        tight_gate={
            "rope_parameters": plain(),
            "swiglu_limit": 0.9,
            "swiglu_alpha": 1.3,
            "num_experts_per_tok": 3,
            "layer_types": ALTERNATE[::-1],
        },
        no_attention_bias={"attention_bias": False},
    ),
    "llama4_text": variants(
        "Llama4Text",
        WIDE
        | {
            "intermediate_size_mlp": 30,
            "num_local_experts": 5,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 5,
        },
        plain={},
        two_experts={
            "num_experts_per_tok": 2,
            "interleave_moe_layer_step": 1,
            "use_qk_norm": False,
            "attention_bias": True,
        },
        warm={"floor_scale": 4, "attn_scale": 0.7, "no_rope_layers": [1, 0, 0, 1], "moe_layers": [0, 3]},
        cold={"attn_temperature_tuning": False, "no_rope_layer_interval": 2, "rope_parameters": LLAMA3},
    ),
    "glm4_moe": variants(
        "Glm4Moe",
        WIDE
        | {
            "head_dim": 12,
            "moe_intermediate_size": 20,
            "num_experts_per_tok": 2,
            "n_routed_experts": 6,
            "use_qk_norm": True,
        },
        plain={},
        groups={
            "use_qk_norm": False,
            "attention_bias": True,
            "n_shared_experts": 2,
            "n_group": 2,
            "routed_scaling_factor": 1.7,
        },
    ),
    "ernie4_5_moe": variants(
        "Ernie4_5_Moe",
        BASE | {"moe_intermediate_size": 20, "moe_k": 2, "moe_num_experts": 5},
        plain={},
        biases={
            "use_bias": True,
            "moe_num_shared_experts": 0,
            "moe_layer_interval": 2,
            "tie_word_embeddings": False,
        },
        range_of_layers={"moe_layer_start_index": 0, "moe_layer_end_index": 2},
    ),
    "minimax_m2": variants(
        "MiniMaxM2",
        WIDE | {"num_local_experts": 5, "num_experts_per_tok": 2},
        plain={},
        partial={"rope_parameters": plain(partial_rotary_factor=0.6)},
        rotary_dim={"rotary_dim": 4},
    ),
    "hunyuan_v1_moe": variants(
        "HunYuanMoEV1",
        WIDE | {"num_experts": 5, "moe_topk": 2},
        plain={},
        by_layer={"moe_topk": [1, 2, 3, 2], "attention_bias": True},
        stretched={"rope_parameters": plain(rope_type="dynamic", alpha=50.0, factor=1.0)},
    ),
    "dbrx": variants(
        "Dbrx",
        DBRX,
        plain={},
        not_normalised={"ffn_config": DBRX["ffn_config"] | {"moe_top_k": 3, "moe_normalize_expert_weights": None}},  # type: ignore[operator]
    ),
    "smollm3": variants(
        "SmolLM3",
        BASE,
        plain={},
        windows={
            "use_sliding_window": True,
            "sliding_window": 4,
            "no_rope_layers": [1, 0, 1, 0],
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "starcoder2": variants(
        "Starcoder2",
        BASE,
        plain={},
        window={"sliding_window": 5, "use_bias": False, "tie_word_embeddings": False, "hidden_act": "gelu"},
    ),
    "stablelm": variants(
        "StableLm",
        BASE,
        plain={},
        qk_norm={"qk_layernorm": True},
        parallel={
            "use_parallel_residual": True,
            "use_qkv_bias": True,
            "rope_parameters": plain(partial_rotary_factor=0.5),
        },
    ),
    "nemotron": variants(
        "Nemotron",
        BASE,
        plain={},
        biases={"attention_bias": True, "mlp_bias": True, "head_dim": 12, "tie_word_embeddings": True},
        odd_part={"head_dim": 10},
    ),
}
CASES: dict[str, Case] = {
    kind if name == "plain" else f"{kind}, {name.replace('_', ' ')}": case
    for kind, cases in FAMILIES.items()
    for name, case in cases.items()
}
