"""Tiny configurations of the model types with recurrent mixers, and changes of them."""

from __future__ import annotations

from tests.model.checkpoint.settings import DELTA, LATENT, SPARSE, WIDE, Case, plain, variants, yarn

# A large eps, above all of norms of 1 + weight: else a state that tells little is made as long as any other, and its
# rounding errors with it.
QWEN = WIDE | SPARSE | DELTA | {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 28, "rms_norm_eps": 0.1}
KIMI = {key: value for key, value in LATENT.items() if key not in ("first_k_dense_replace", "n_routed_experts")} | {
    "num_hidden_layers": 5,
    "num_local_experts": 8,
    "linear_head_dim": 9,
    "linear_num_heads": 5,
    "q_lora_rank": None,
    "rms_norm_eps": 0.01,
}
LING = {key: value for key, value in KIMI.items() if not key.startswith(("linear", "q_lora"))} | {
    "num_hidden_layers": 4,
    "eos_token_id": 1,
    "head_dim": 9,
    "layer_group_size": 3,
}
LINEAR_LAST = ["full_attention", "linear_attention"] * 2

RECURRENT: dict[str, dict[str, Case]] = {
    "qwen3_next": variants(
        "Qwen3Next",
        QWEN,
        plain={"rope_parameters": plain(partial_rotary_factor=0.4)},
        some_dense={
            "mlp_only_layers": [1],
            "norm_topk_prob": False,
            "layer_types": LINEAR_LAST,
            "linear_conv_kernel_dim": 3,
            "rope_parameters": yarn(partial_rotary_factor=1.0),
        },
        sixteens={"linear_key_head_dim": 16, "linear_value_head_dim": 32},  # heads of the compiled kernel's sizes
        every_second={"decoder_sparse_step": 2, "linear_num_key_heads": 6, "tie_word_embeddings": True},
    ),
    "qwen3_5_moe_text": variants(
        "Qwen3_5MoeText",
        {key: value for key, value in QWEN.items() if key != "intermediate_size"},
        plain={"rope_parameters": plain(partial_rotary_factor=0.4, mrope_section=[1, 1, 0], mrope_interleaved=True)},
        linear_last={"layer_types": LINEAR_LAST, "linear_num_key_heads": 3, "linear_conv_kernel_dim": 2},
    ),
    "kimi_linear": variants(
        "KimiLinear",
        KIMI,
        plain={},
        sixteens={"linear_head_dim": 32, "linear_num_heads": 3},
        by_lists={
            "linear_attn_config": {
                "full_attn_layers": [1, 3],
                "kda_layers": [2, 4, 5],
                "head_dim": 7,
                "num_heads": 6,
                "short_conv_kernel_size": 3,
            },
            "mlp_layer_types": ["sparse", "dense", "sparse", "sparse", "dense"],
            "q_lora_rank": 22,
            "attention_bias": True,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.3,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "bailing_hybrid": variants(
        "BailingHybrid",
        LING,
        plain={},
        sixteens={"head_dim": 16, "kda_lower_bound": -2.0, "short_conv_kernel_size": 3},
        no_bound={
            "head_dim": 16,
            "kda_safe_gate": False,
            "layer_types": LINEAR_LAST,
            "mlp_layer_types": ["sparse", "dense", "sparse", "dense"],
            "rope_parameters": yarn(mscale=1.0, mscale_all_dim=0.8),
            "attention_bias": True,
            "norm_topk_prob": False,
        },
    ),
}
