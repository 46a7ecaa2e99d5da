"""Tiny configurations of the model types with recurrent mixers, and changes of them."""

from __future__ import annotations

from tests.model.checkpoint.settings import DELTA, SPARSE, WIDE, Case, plain, variants, yarn

QWEN = (
    WIDE | SPARSE | DELTA | {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 28, "rms_norm_eps": 0.01}
)
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
        every_second={"decoder_sparse_step": 2, "linear_num_key_heads": 6, "tie_word_embeddings": True},
    ),
    "qwen3_5_moe_text": variants(
        "Qwen3_5MoeText",
        {key: value for key, value in QWEN.items() if key != "intermediate_size"},
        plain={"rope_parameters": plain(partial_rotary_factor=0.4, mrope_section=[1, 1, 0], mrope_interleaved=True)},
        linear_last={"layer_types": LINEAR_LAST, "linear_num_key_heads": 3, "linear_conv_kernel_dim": 2},
    ),
}
