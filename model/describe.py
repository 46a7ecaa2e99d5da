"""An architecture in words, for cards and pages: what a reader of a course on language models would call its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from model import config, pattern
from model.cache import cache_entry
from model.config import Architecture, Attention, Beside, Block, FeedForward, MoE, Recurrent
from model.naming import Names, block_names, of_kinds

Value = TypeVar("Value")

PLACEMENTS = {
    "pre": "before each branch",
    "post": "on the sum after each branch",
    "output": "on the output of each branch",
    "sandwich": "before and after each branch",
}
ACTIVATIONS = {"relu2": "relu²", "gelu_tanh": "gelu"}
A_STATE = "a state of all before"
NORMED = {"head": "per head", "each": "per head with weights of its own", "width": "over the width"}


def describe(architecture: Architecture, names: Names | None = None) -> dict[str, str]:
    """Words for layers, embedding, attention, what it sees, positions, block, feed-forward, experts and head.

    Where layers differ, each kind is named with the number of its layers. "experts" is empty without experts,
    "embedding" where it is nothing but a table. `names` of the blocks are found where they have none.
    """
    branches = [branch for block in architecture.blocks for branch in block.branches]
    mixers = [branch for branch in branches if isinstance(branch, Attention | Recurrent)]
    words = {
        "layers": layers(architecture, names),
        "embedding": embedding_words(architecture.embedding),
        "attention": _several(mixers, mixer_words),
        "sees": _several(mixers, lambda value: span_words(value.span) if isinstance(value, Attention) else A_STATE),
        "position": _positions(architecture),
        "block": _several(architecture.blocks, block_words),
        "feed_forward": _several(filter(None, map(_dense, branches)), feed_forward_words),
        "experts": _several([b for b in branches if isinstance(b, MoE | Beside)], mixture_words),
        "head": head_words(architecture),
    }
    if architecture.crossings:
        left_out = "" if architecture.encoder is not None else ", left out where there is no memory"
        words["attention"] += f"; cross-attention in {len(architecture.crossings)} layers{left_out}"
    return words


def kinds(architecture: Architecture) -> dict[str, str]:
    """Attention, position and feed-forward in as few words as a label has room for: "grouped-query", "rotary", "2 of 8
    experts". Several kinds are joined by " + "."""
    branches = [branch for block in architecture.blocks for branch in block.branches]
    embedded = architecture.embedding.position
    positions = [embedded] if embedded is not None else [value.position for value in architecture.attentions]
    return {
        "attention": _joined(mixer_kind(branch) for branch in branches if isinstance(branch, Attention | Recurrent)),
        "position": _joined("none" if value is None else type(value).__name__.lower() for value in positions),
        "feed_forward": _joined(kind for branch in branches for kind in _feed_forward_kinds(branch)),
    }


def layers(architecture: Architecture, names: Names | None = None) -> str:
    """ "61: dense*3 sparse*58", and an encoder's before it."""
    if names is None:
        architecture = of_kinds(architecture)
    called = names or block_names(architecture)

    def stack(blocks: tuple[Block, ...]) -> str:
        return f"{len(blocks)}: {' '.join(pattern.write([called[block] for block in blocks]))}"

    if architecture.encoder is None:
        return stack(architecture.blocks)
    return f"encoder {stack(architecture.encoder.blocks)}; decoder {stack(architecture.blocks)}"


def mixer_kind(value: Attention | Recurrent) -> str:
    """The kind of its heads, or of a recurrent mixer by its rule and what it forgets."""
    if isinstance(value, Attention):
        return heads_kind(value.heads)
    if isinstance(value.decay, config.FixedDecay):
        return "linear" if value.rule == "add" else "delta"
    if value.rule == "delta":
        return "gated delta" if value.decay.over == "head" else "delta gated per key"
    return "state space" if value.decay.discrete else "gated linear"


def mixer_words(value: Attention | Recurrent) -> str:
    """The kind of heads, how many, and what is unusual about their scores; of a recurrent mixer, its states."""
    if isinstance(value, Recurrent):
        return f"{mixer_kind(value)}, {states_words(value)}"
    return ", ".join([f"{heads_kind(value.heads)}, {heads_words(value.heads)}", *score_words(value)])


def states_words(value: Recurrent) -> str:
    shared = "" if value.keys == value.heads else f" share {value.keys} keys"
    return f"{value.heads} states of {value.key_dim}x{value.value_dim}{shared}"


def heads_kind(heads: config.Grouped | config.Latent) -> str:
    if isinstance(heads, config.Latent):
        return "latent"
    if heads.kv == heads.query:
        return "multi-head"
    return "multi-query" if heads.kv == 1 else "grouped-query"


def heads_words(heads: config.Grouped | config.Latent) -> str:
    if isinstance(heads, config.Latent):
        return f"{heads.query} heads over a latent of {heads.kv_rank}+{heads.rotary_dim}"
    if heads.kv == heads.query:
        return f"{heads.query} heads of {heads.dim}"
    shared = "1 key and value" if heads.kv == 1 else f"{heads.kv} keys and values"
    return f"{heads.query} heads of {heads.dim} share {shared}"


def score_words(value: Attention) -> list[str]:
    """What is done to queries, keys and scores beside the product."""
    heads = value.heads
    normed = heads.qk_norm if isinstance(heads, config.Grouped) else None
    clipped = isinstance(heads, config.Grouped) and heads.clip is not None
    shared = isinstance(heads, config.Grouped) and heads.shared_value
    said = {
        "projections clipped": clipped,
        "values are the keys": shared,
        f"scores capped at {_number(value.softcap or 0)}": value.softcap is not None,
        "sinks": value.sinks,
        "queries grow with position": value.temperature is not None,
        "gated output": value.gate is not None,
    }
    if value.indexer is not None:
        said[f"only the {value.indexer.top_k:,} best keys"] = True
    told = [words for words, true in said.items() if true]
    return told if normed is None else [qk_norm_words(normed), *told]


def qk_norm_words(value: config.QKNorm) -> str:
    return f"queries and keys normed {NORMED[value.over]}{' after rotation' if value.after_rotation else ''}"


def cached_words(value: Attention) -> str:
    """What a token leaves in the cache."""
    return f"{cache_entry(value).numbers:,} numbers"


def span_words(span: config.Span) -> str:
    match span:
        case config.Full():
            return "everything before"
        case config.Window(size):
            return f"the last {size:,}"
        case config.Chunk(size):
            return f"its chunk of {size:,}"


def position_words(value: Attention) -> str:
    match value.position:
        case None:
            return "none"
        case config.Alibi():
            return "ALiBi"
        case config.Buckets(count):
            return f"{count} buckets of distance"
        case config.Rotary():
            return rotary_words(value.position)


def rotary_words(value: config.Rotary) -> str:
    part = "" if value.fraction == 1 else f" on {value.fraction:.0%} of a head"
    return f"rotary{part}, base {_number(value.theta)}{scaling_words(value.scaling)}"


def scaling_words(value: config.Scaling | None) -> str:
    if value is None or value.factor == 1:
        return ""
    kind = {config.YarnScaling: "yarn", config.Llama3Scaling: "llama 3", config.LinearScaling: "linear"}
    return f", {kind.get(type(value), 'proportional')} ×{_number(value.factor)}"


def block_words(value: Block) -> str:
    """Where its norms stand, and whether its branches run side by side."""
    side = ", branches side by side" if value.parallel else ""
    shared = " shared by both" if value.shared_norm else ""
    scaled = "" if value.residual_scale == 1 else f", branches × {_number(value.residual_scale)}"
    gated = ", gated branches" if value.gated else ""
    return f"{norm_words(value.norm)} {PLACEMENTS[value.placement]}{shared}{side}{scaled}{gated}"


def norm_words(value: config.Norm) -> str:
    plain = "RMS norm" if value.kind == "rms" else "layer norm"
    return plain if value.weight else f"{plain} without weights"


def activation_words(value: FeedForward) -> str:
    if isinstance(value.activation, str):
        activation = ACTIVATIONS.get(value.activation, value.activation)
    else:
        activation = "clamped silu"
    return f"{'gated ' if value.gated else ''}{activation}"


def feed_forward_words(value: FeedForward) -> str:
    return f"{activation_words(value)}, {value.hidden:,} wide"


def mixture_words(value: MoE | Beside) -> str:
    """How many experts, what one is, what every token passes beside them, how they are chosen."""
    if isinstance(value, Beside):
        return f"{mixture_words(value.mixture)}; beside the feed-forward"
    parts = [f"{value.active} of {value.experts:,}, {feed_forward_words(value.expert)}", *shared_words(value)]
    return "; ".join([*parts, router_words(value)])


def shared_words(value: MoE) -> list[str]:
    if value.shared is None:
        return []
    return [f"{'gated ' if value.shared_gate else ''}shared expert {value.shared.hidden:,} wide"]


def router_words(value: MoE) -> str:
    router = value.router
    score = router.score if isinstance(router.score, str) else "sparse mixer"
    said = [f"{score} router", "chosen weights made to sum to one" if router.normalise else "chosen weights as scored"]
    if router.scale != 1:
        said.append(times_words(router.scale))
    if value.weigh == "input":
        said.append("on the input of experts")
    if router.groups is not None:
        said.append(f"{router.groups.kept} of {router.groups.count} groups")
    if router.correction:
        said.append("balanced by a bias")
    if router.capacity is not None:
        said.append(f"capacity {_number(router.capacity.factor)}")
    return ", ".join(said)


def embedding_words(value: config.Embedding) -> str:
    """What is done to the rows of the table besides adding positions."""
    scaled = [] if value.scale == 1 else [times_words(value.scale)]
    return ", ".join(scaled if value.norm is None else [*scaled, norm_words(value.norm)])


def head_words(architecture: Architecture) -> str:
    head = architecture.head
    scaled = "" if head.scale == 1 else f", logits {times_words(head.scale)}"
    capped = "" if head.softcap is None else f", logits capped at {_number(head.softcap)}"
    return ("the embedding again" if head.tied else "a table of its own") + scaled + capped


def _positions(architecture: Architecture) -> str:
    """Positions at the embedding, then those in the attention."""
    match architecture.embedding.position:
        case config.Learned(rows, offset):
            return f"learned, {rows - offset:,} rows"
        case config.Sinusoidal():
            return "sinusoidal"
    return _several(architecture.attentions, position_words)


def _dense(branch: config.Branch) -> FeedForward | None:
    if isinstance(branch, Beside):
        return branch.dense
    return branch if isinstance(branch, FeedForward) else None


def _feed_forward_kinds(branch: config.Branch) -> list[str]:
    match branch:
        case FeedForward():
            return [activation_words(branch)]
        case MoE():
            shared = "" if branch.shared is None else ", 1 shared"
            return [f"{branch.active} of {branch.experts} experts{shared}"]
        case Beside(dense, mixture):
            return [*_feed_forward_kinds(dense), *_feed_forward_kinds(mixture)]
        case _:
            return []


def _joined(words: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(words)) or "none"


def _several(values: Iterable[Value], words: Callable[[Value], str]) -> str:
    """The words of all values; with the number of layers of each where they differ."""
    counted = Counter(map(words, values))
    if len(counted) < 2:
        return "".join(counted)
    return "; ".join(f"{said} ({times} layers)" for said, times in counted.items())


def times_words(factor: float) -> str:
    return f"× {factor:.4g}"


def _number(value: float) -> str:
    return f"{value:,.10g}" if value < 1e15 else f"{value:g}"
