"""ALiBi instead of positions: BLOOM, MPT, and Falcon, which has either."""

from __future__ import annotations

from dataclasses import replace

from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import activation, blocks, decoder, grouped, head, layer_norm, query_heads, width
from model.checkpoint.families.rotation import rotary
from model.checkpoint.layout import FeedForwardNames, GroupedNames, Layout
from model.checkpoint.settings import Settings
from model.config import Alibi, Architecture, Attention, Embedding, FeedForward, Grouped

BLOOM = Layout(
    embedding="transformer.word_embeddings",
    embedding_norm="transformer.word_embeddings_layernorm",
    block="transformer.h.{i}",
    norm="transformer.ln_f",
    attention=GroupedNames(qkv=("self_attention.query_key_value",), out="self_attention.dense", by_group=True),
    feed_forward=FeedForwardNames(up=("mlp.dense_h_to_4h",), down="mlp.dense_4h_to_h"),
)
MPT = Layout(
    embedding="transformer.wte",
    block="transformer.blocks.{i}",
    norm="transformer.norm_f",
    before=("norm_1", "norm_2"),
    attention=GroupedNames(qkv=("attn.Wqkv",), out="attn.out_proj"),
    feed_forward=FeedForwardNames(up=("ffn.up_proj",), down="ffn.down_proj"),
)


def bloom(s: Settings) -> Architecture:
    s.only("apply_residual_connection_post_layernorm", False)
    norm, feed = layer_norm(s), FeedForward(4 * width(s), "gelu_tanh", gated=False, bias=True)
    attention = Attention(grouped(s, bias=True, kv=query_heads(s)), Alibi(), out_bias=True)
    stack = blocks(s, lambda i: (attention, feed), norm)
    return decoder(s, stack, norm, head(s, tied=True), Embedding(norm=norm))


def mpt(s: Settings) -> Architecture:
    """No biases at all. The feed-forward is four times as wide as the model whatever `expansion_ratio` says."""
    inner = s.table("attn_config")
    inner.only("alibi", True)
    inner.only("qk_ln", False)
    inner.only("prefix_lm", False)
    inner.only("attn_type", "multihead_attention")
    s.only("logit_scale")
    norm, feed = layer_norm(s, bias=False), FeedForward(4 * width(s), "gelu", gated=False)
    heads = grouped(s, kv=query_heads(s), clip=inner.optional_positive("clip_qkv"))
    slopes = Alibi(inner.positive("alibi_bias_max", default=8.0))
    attention = Attention(heads, slopes, scale=inner.optional_positive("softmax_scale"))
    return decoder(s, blocks(s, lambda i: (attention, feed), norm), norm, head(s, tied=True))


# ---------------------------------------------------------------------------------------------- Falcon


def falcon(s: Settings) -> Architecture:
    """Three forms: multi-query behind one norm, grouped-query behind two, and (1B RW) a plain sequence with ALiBi."""
    bias, norm, heads = s.flag("bias", default=False), layer_norm(s), _falcon_heads(s)
    # ALiBi is added before the scores are scaled.
    alibi = s.flag("alibi", default=False)
    position = Alibi(scale=heads.dim**-0.5) if alibi else rotary(s)
    hidden = s.size("ffn_hidden_size", default=4 * width(s))
    feed = FeedForward(hidden, activation(s, "activation", "gelu"), gated=False, bias=bias)
    attention = Attention(heads, position, out_bias=bias)
    parallel = s.flag("parallel_attn", default=True)
    shared = parallel and _falcon_norms(s) == 1
    stack = blocks(s, lambda i: (attention, feed), norm, parallel=parallel, shared_norm=shared)
    return decoder(s, stack, norm, head(s, tied=True))


def _falcon_heads(s: Settings) -> Grouped:
    query, new = query_heads(s), s.flag("new_decoder_architecture", default=False)
    one = s.flag("multi_query", default=True) and not new
    kv = 1 if one else s.size("num_kv_heads", "n_head_kv", default=query)
    return grouped(s, bias=s.flag("bias", default=False), kv=kv)


def _falcon_norms(s: Settings) -> int:
    """Norms before parallel branches."""
    if not s.flag("new_decoder_architecture", default=False):
        return 1
    s.only("parallel_attn", True)
    return s.whole("num_ln_in_parallel_attn", default=2)


def falcon_layout(s: Settings) -> Layout:
    names = ("ln_attn", "ln_mlp") if _falcon_norms(s) == 2 else ("input_layernorm", "post_attention_layernorm")
    return replace(BLOOM, before=names)


FAMILIES = {
    "bloom": Family(bloom, lambda s: BLOOM, root="transformer."),
    "mpt": Family(mpt, lambda s: MPT, root="transformer."),
    "falcon": Family(falcon, falcon_layout, root="transformer."),
}
