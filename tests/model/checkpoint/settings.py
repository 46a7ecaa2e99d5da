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
DELTA = {
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 9,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
}
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
NEMOTRON = {
    "vocab_size": 97,
    "hidden_size": 42,
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention"],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "intermediate_size": 50,
    "mamba_num_heads": 6,
    "mamba_head_dim": 8,
    "ssm_state_size": 14,
    "n_groups": 3,
    "conv_kernel": 4,
    "chunk_size": 7,
    "num_experts_per_tok": 2,
    "n_routed_experts": 5,
    "moe_intermediate_size": 20,
    "moe_shared_expert_intermediate_size": 28,
    "max_position_embeddings": 64,
    "time_step_min": 1e-9,  # in prompts, but not in decoding, the reference takes no smaller step
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
