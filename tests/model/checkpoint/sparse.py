"""Tiny configurations of the model types with experts, and changes of them."""

from __future__ import annotations

from tests.model.checkpoint.settings import (
    ALTERNATE,
    BASE,
    DBRX,
    LATENT,
    LLAMA3,
    MULTIPLIED,
    NEMOTRON,
    SPARSE,
    WIDE,
    Case,
    plain,
    variants,
    yarn,
)

BRANCHES, WEIGHTS = ("full_attn", "linear_attn", "mlp"), {"alpha": 3.5, "beta": 0.8}
EXPERTS: dict[str, dict[str, Case]] = {
    "mixtral": variants(
        "Mixtral",
        WIDE | {"num_local_experts": 5},
        plain={},
        window={"sliding_window": 6, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        three_experts={"num_experts_per_tok": 3},
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
    "olmoe": variants("Olmoe", BASE | SPARSE, plain={}, normalised={"norm_topk_prob": True, "attention_bias": True}),
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
        step={"rope_parameters": LLAMA3 | {"factor": 16.0, "high_freq_factor": 1.0}},
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
    "minimax": variants(
        "MiniMax",
        WIDE | {"num_local_experts": 5, "num_experts_per_tok": 2, "block_size": 7},
        plain={"num_hidden_layers": 3},
        weighed={
            **{f"{branch}_{kind}_factor": size for branch in BRANCHES for kind, size in WEIGHTS.items()},
            "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
            "sliding_window": 5,
        },
        one_layer={"num_hidden_layers": 1, "layer_types": ["linear_attention"], "tie_word_embeddings": True},
    ),
    "nemotron_h": variants(
        "NemotronH",
        NEMOTRON,
        plain={},
        groups={
            "layers_block_type": ["mlp", "linear_attention", "moe", "linear_attention", "full_attention"],
            "n_routed_experts": 6,
            "n_group": 3,
            "topk_group": 2,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.7,
            "mlp_bias": True,
        },
        one_group={"n_groups": 1, "use_conv_bias": False, "conv_kernel": 3, "layer_norm_epsilon": 0.01},
        key_head_each={"n_groups": 6, "mlp_hidden_act": "gelu", "layers_block_type": ["linear_attention", "mlp"]},
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
}
