"""Gemma: norms act as 1 + weight, the embedding is multiplied by the root of the width, the head is tied."""

from __future__ import annotations

from model.checkpoint.families.family import Family
from model.checkpoint.families.parts import activation, blocks, decoder, every, grouped, head, kinds, rms, width, window
from model.checkpoint.families.rotation import rotary, rotary_by_kind
from model.checkpoint.layout import Layout
from model.checkpoint.settings import Settings
from model.config import Architecture, Attention, Block, Embedding, FeedForward, Norm, QKNorm, Rotary

SANDWICH = Layout(
    before=("input_layernorm", "pre_feedforward_layernorm"),
    after=("post_attention_layernorm", "post_feedforward_layernorm"),
)


def gemma(s: Settings) -> Architecture:
    bias, norm = s.flag("attention_bias", default=False), rms(s, 1e-6, offset=1.0)
    # The first files say "gelu" and mean the tanh form.
    kind = activation(s, "hidden_act", "gelu_pytorch_tanh")
    feed = FeedForward(s.size("intermediate_size"), "gelu_tanh" if kind == "gelu" else kind)
    attention = Attention(grouped(s, bias=bias, dim=256), rotary(s), out_bias=bias)
    return _scaled(s, blocks(s, lambda i: (attention, feed), norm), norm)


def gemma2(s: Settings) -> Architecture:
    turn = rotary(s)
    return _alternating(s, {"full_attention": turn, "sliding_attention": turn}, 2, caps=(50.0, 30.0))


def gemma3(s: Settings) -> Architecture:
    """Five layers with a window and a rotation of their own to one without. Its scores have no soft cap."""
    s.only("attn_logit_softcapping")
    turns = {
        "full_attention": rotary_by_kind(s, "full_attention", 1e6),
        "sliding_attention": rotary_by_kind(s, "sliding_attention", 1e4, "rope_local_base_freq"),
    }
    period = s.whole("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return _alternating(s, turns, max(period, 1), QKNorm(rms(s, 1e-6, offset=1.0)))


def _alternating(
    s: Settings,
    turns: dict[str, Rotary],
    period: int,
    qk_norm: QKNorm | None = None,
    caps: tuple[float | None, float | None] = (None, None),
) -> Architecture:
    """A decoder of several kinds of layers; turns: the rotation of each kind; caps: the soft caps of scores and logits
    where the file has none."""
    bias, norm = s.flag("attention_bias", default=False), rms(s, 1e-6, offset=1.0)
    heads = grouped(s, bias=bias, qk_norm=qk_norm, dim=256)
    scale = s.positive("query_pre_attn_scalar", default=256.0) ** -0.5
    softcap = s.optional_positive("attn_logit_softcapping", caps[0])
    feed = FeedForward(s.size("intermediate_size"), activation(s, "hidden_activation", "gelu_pytorch_tanh"))
    of_layer = kinds(s, every(period), turns)
    size = s.whole("sliding_window", default=4096)

    def branches(i: int) -> tuple[Attention, FeedForward]:
        span = window(size if of_layer[i] == "sliding_attention" else None)
        return Attention(heads, turns[of_layer[i]], span, scale, softcap, out_bias=bias), feed

    return _scaled(s, blocks(s, branches, norm, "sandwich"), norm, caps[1])


def _scaled(s: Settings, stack: tuple[Block, ...], norm: Norm, cap: float | None = None) -> Architecture:
    s.only("use_bidirectional_attention", False)
    softcap = s.optional_positive("final_logit_softcapping", cap)
    embedding = Embedding(scale=width(s) ** 0.5)
    return decoder(s, stack, norm, head(s, tied=True, softcap=softcap), embedding)


FAMILIES = {
    "gemma": Family(gemma, lambda s: Layout()),
    "gemma2": Family(gemma2, lambda s: SANDWICH),
    "gemma3_text": Family(gemma3, lambda s: SANDWICH),
}
