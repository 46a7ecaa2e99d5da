"""Small runnable models of the shape of large ones.

What makes an architecture itself stays: every distinct block and the pattern of its layers, how many query heads share
a key head, positions, norms, routers, groups of experts, how many experts are active. What only makes it large shrinks:

- width, vocabulary, context and heads to the scale's, never above the architecture's own;
- feed-forwards, experts and the query rank of latent attention in proportion to the width; head dimensions, and the
  latent with them, so that the smallest head has the scale's; all of these in multiples of 16 as large ones are (no
  architecture shall look slower because its shrunk sizes do not suit the vector units); windows, chunks and original
  contexts in proportion to the context, but not below 16 positions;
- the stack to the scale's layers (an encoder and its decoder get half of them each), or to one repeat of each of its
  patterns where those are longer;
- more experts than the scale's to the scale's.

What latent attention saves does not stay: its latent shrinks with the head dimension, while 128 heads that shared it
become a few, so that it caches about as much as a few grouped keys and values, and its prefill has other proportions.
Those are to be read from the card of the architecture as published.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias, TypeVar

from model import config
from model.config import Architecture, Attention, Block, ConfigError
from model.pattern import segments

Value = TypeVar("Value")
Position: TypeAlias = config.Rotary | config.Alibi | config.Buckets | None
LEAST_REACH = 16


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the model may be; `heads` are key heads together with the query heads that share them, at least two
    groups of them where there are two."""

    width: int
    layers: int
    heads: int
    head_dim: int
    experts: int
    vocab: int
    context: int


SCALES = {
    "tiny": Scale(width=64, layers=4, heads=4, head_dim=16, experts=64, vocab=512, context=512),
    "small": Scale(width=256, layers=8, heads=8, head_dim=32, experts=64, vocab=4096, context=2048),
    "medium": Scale(width=512, layers=12, heads=8, head_dim=64, experts=128, vocab=16384, context=4096),
}


def scaled(architecture: Architecture, scale: str | Scale) -> Architecture:
    """The architecture at a scale, by name ("tiny", "small", "medium") or by sizes."""
    return _Shrink(architecture, named(scale) if isinstance(scale, str) else scale).architecture()


def named(scale: str) -> Scale:
    """A scale by its name."""
    if scale not in SCALES:
        raise ConfigError(f"scale: {scale!r} is not one of {', '.join(SCALES)}")
    return SCALES[scale]


class _Shrink:
    """One architecture on its way to one scale."""

    def __init__(self, whole: Architecture, scale: Scale) -> None:
        self.whole, self.scale = whole, scale
        self.width = min(whole.width, scale.width)
        self.context = min(whole.context, scale.context)
        heads = [attention.heads for attention in whole.attentions]
        dims = [h.plain_dim if isinstance(h, config.Latent) else h.dim for h in heads]
        dims = dims or [min(value.key_dim, value.value_dim) for value in whole.recurrents] or [scale.head_dim]
        self.dim_ratio = min(1.0, scale.head_dim / min(dims))
        self.block: Callable[[Block], Block] = cache(self._block)

    def architecture(self) -> Architecture:
        whole, encoder = self.whole, self.whole.encoder
        if encoder is not None:
            encoder = replace(encoder, blocks=self._stack(encoder.blocks))
        return replace(
            whole,
            vocab=min(whole.vocab, self.scale.vocab),
            width=self.width,
            context=self.context,
            blocks=self._stack(whole.blocks),
            embedding=self._embedding(whole.embedding),
            encoder=encoder,
        )

    def _stack(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        stacks = 1 if self.whole.encoder is None else 2
        kinds = shortened(tuple(block.kind for block in blocks), self.scale.layers // stacks)
        return tuple(map(self.block, _spread(blocks, kinds)))

    def _embedding(self, value: config.Embedding) -> config.Embedding:
        """A scale that is the root of the width stays the root of the width."""
        position, scale = value.position, value.scale
        if isinstance(position, config.Learned):
            position = replace(position, rows=self.context + position.offset)
        if math.isclose(scale, self.whole.width**0.5, rel_tol=1e-6):
            scale = self.width**0.5
        return replace(value, position=position, scale=scale)

    def _block(self, value: Block) -> Block:
        return replace(value, branches=tuple(map(self._branch, value.branches)))

    def _branch(self, value: config.Branch) -> config.Branch:
        match value:
            case Attention():
                return self._attention(value)
            case config.CrossAttention():
                grouped = self._grouped(value.heads)
                return replace(value, heads=grouped, scale=_score_scale(value.scale, value.heads.dim, grouped.dim))
            case config.Recurrent():
                return self._recurrent(value)
            case config.FeedForward():
                return self._feed_forward(value)
            case config.MoE():
                return self._mixture(value)
            case config.Beside(dense, mixture):
                return replace(value, dense=self._feed_forward(dense), mixture=self._mixture(mixture))

    def _attention(self, value: Attention) -> Attention:
        heads = value.heads
        smaller = self._latent(heads) if isinstance(heads, config.Latent) else self._grouped(heads)
        span, temperature = value.span, value.temperature
        return replace(
            value,
            heads=smaller,
            span=span if isinstance(span, config.Full) else replace(span, size=self._reach(span.size)),
            position=self._position(value.position, smaller),
            scale=_score_scale(value.scale, heads.dim, smaller.dim),
            temperature=None if temperature is None else replace(temperature, floor=self._reach(temperature.floor)),
            indexer=None if value.indexer is None else self._indexer(value.indexer),
        )

    def _grouped(self, value: config.Grouped) -> config.Grouped:
        sharing = value.query // value.kv
        kv = min(value.kv, max(2, self.scale.heads // sharing))
        return replace(value, query=kv * sharing, kv=kv, dim=self._dim(value.dim))

    def _latent(self, value: config.Latent) -> config.Latent:
        return replace(
            value,
            query=min(value.query, self.scale.heads),
            kv_rank=self._dim(value.kv_rank),
            plain_dim=self._dim(value.plain_dim),
            rotary_dim=self._dim(value.rotary_dim) if value.rotary_dim else 0,
            value_dim=self._dim(value.value_dim),
            query_rank=None if value.query_rank is None else self._of_width(value.query_rank),
        )

    def _recurrent(self, value: config.Recurrent) -> config.Recurrent:
        sharing = value.heads // value.keys
        keys = min(value.keys, max(2, self.scale.heads // sharing))
        gate, decay = value.gate, value.decay
        if gate is not None and gate.rank is not None:
            gate = replace(gate, rank=self._dim(gate.rank))
        if isinstance(decay, config.LearnedDecay) and decay.rank is not None:
            decay = replace(decay, rank=self._dim(decay.rank))
        return replace(
            value,
            heads=keys * sharing,
            key_heads=None if value.key_heads is None else keys,
            key_dim=self._dim(value.key_dim),
            value_dim=self._dim(value.value_dim),
            gate=gate,
            decay=decay,
        )

    def _indexer(self, value: config.Indexer) -> config.Indexer:
        heads = min(value.heads, self.scale.heads)
        return replace(value, heads=heads, dim=self._dim(value.dim), top_k=self._reach(value.top_k))

    def _position(self, value: Position, heads: config.Grouped | config.Latent) -> Position:
        """A rotary fraction is moved to the next one that turns an even number of dimensions."""
        if not isinstance(value, config.Rotary):
            return value
        scaling, fraction = value.scaling, value.fraction
        if isinstance(scaling, config.YarnScaling | config.Llama3Scaling):
            scaling = replace(scaling, original_context=self._reach(scaling.original_context))
        dim = heads.rotary_dim if isinstance(heads, config.Latent) else heads.dim
        if value.counted(dim) % 2 or not value.counted(dim):
            fraction = _rounded_up(_near(dim * fraction, dim, step=2) / dim)
        return replace(value, fraction=fraction, scaling=scaling)

    def _feed_forward(self, value: config.FeedForward) -> config.FeedForward:
        return replace(value, hidden=self._of_width(value.hidden))

    def _mixture(self, value: config.MoE) -> config.MoE:
        router, experts = value.router, min(value.experts, self.scale.experts)
        if router.groups is not None:
            experts -= experts % router.groups.count
        if router.capacity is not None:
            tokens = max(self._reach(router.capacity.tokens), math.ceil(experts / router.capacity.factor))
            router = replace(router, capacity=replace(router.capacity, tokens=tokens))
        return replace(
            value,
            experts=experts,
            active=min(value.active, experts),
            expert=self._feed_forward(value.expert),
            router=router,
            shared=None if value.shared is None else self._feed_forward(value.shared),
        )

    def _of_width(self, size: int) -> int:
        return _near(size * self.width / self.whole.width, size)

    def _dim(self, size: int) -> int:
        return _near(size * self.dim_ratio, size)

    def _reach(self, size: float) -> int:
        return int(min(size, max(LEAST_REACH, round(size * self.context / self.whole.context))))


def shortened(items: tuple[Value, ...], most: int) -> tuple[Value, ...]:
    """Fewer repeats of each of the patterns of a stack, at least one; together no more than `most` where that goes."""
    parts = segments(items)
    kept = [1] * len(parts)

    def room(part: int) -> bool:
        more = sum(len(group) * count for (group, _), count in zip(parts, kept, strict=True)) + len(parts[part][0])
        return kept[part] < parts[part][1] and more <= most

    while growing := [part for part in range(len(parts)) if room(part)]:
        kept[max(growing, key=lambda part: parts[part][1] / kept[part])] += 1
    return tuple(item for (group, _), count in zip(parts, kept, strict=True) for item in group * count)


def _spread(blocks: tuple[Block, ...], kinds: tuple[Block, ...]) -> Iterator[Block]:
    """Blocks of these kinds, each from as far up the stack as it will stand: depths stay those of a whole stack."""
    of_kind: dict[Block, list[Block]] = {}
    for block in blocks:
        of_kind.setdefault(block.kind, []).append(block)
    taken, count = Counter[Block](), Counter(kinds)
    for kind in kinds:
        yield of_kind[kind][taken[kind] * len(of_kind[kind]) // count[kind]]
        taken[kind] += 1


def _score_scale(scale: float | None, dim: int, smaller: int) -> float | None:
    """The same multiple of dim ** -0.5 at a smaller dim; scores that are not scaled stay so."""
    return scale if scale is None or scale == 1 else scale * (dim / smaller) ** 0.5


def _near(size: float, most: int, step: int = 16) -> int:
    """The multiple of `step` next to size, at least one, and never above `most`."""
    return min(most, max(step, round(size / step) * step))


def _rounded_up(fraction: float) -> float:
    """To six digits, so that its product with a dimension does not fall below the whole number it came from."""
    return math.ceil(fraction * 1e6) / 1e6
