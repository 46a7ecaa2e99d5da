"""What a forward pass costs, from counts that are cheap to take while it runs: a table made once for each served model.

The closed formulas of operations.py, footprint.py and roofline.py, taken apart into what a pass, a token, a looked-at
position and a touched expert each cost, so that adding up costs a few multiplications a row. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from model.cache import Carried
from model.config import Architecture, Chunk, Full, MoE, Span, Window
from model.footprint import BYTES, looked_at, memory_bytes, positions_seen, state_bytes
from model.operations import Operations, encoding_flops, flops_per_token, recurrence_flops, score_costs
from model.parameters import feed_forward_parameters, parameters, without_memory
from model.roofline import Machine, memory_weights, weights_read

Price = tuple[Span | Carried, int | None, int]
"""(span, most positions, what each position costs)"""


@dataclass(frozen=True, slots=True)
class Costs:
    """Operations and bytes of one model as it is served.

    A row is a request's tokens of one forward pass, positions [start, stop). It reads what the cache held before of
    everything its tokens see, once, and writes its own entries; a pass reads its weights once for all rows.
    """

    token: Operations = Operations()
    """Of one token with the weights: no scores, no head."""
    head: int = 0
    """Operations of the logits of one position."""
    scores: tuple[Price, ...] = ()
    """Operations of looking at one position."""
    reads: tuple[Price, ...] = ()
    """Cache bytes of one position that is looked back on; the most hold for rows of one token: those of several
    tokens choose together as good as all. Recurrent mixers look back on one state."""
    entry: int = 0
    """Cache bytes that a token writes."""
    weights: int = 0
    """Bytes of the weights that every pass reads; routed experts are extra."""
    row: int = 0
    """Bytes of the rows of tables (of tokens, of positions) that one token reads."""
    experts: tuple[int, ...] = ()
    """Bytes of one expert of each mixture layer."""
    state: int = 0
    """Cache bytes of one state of an encoder's memory; 0 without one."""
    crossing: int = 0
    """Operations of one token looking at one state."""
    encoder: int = 0
    """Bytes of the weights that reading a source takes; routed experts are extra."""
    encoder_experts: tuple[int, ...] = ()
    """Bytes of one expert of each of the encoder's mixture layers."""
    carried: int = 0
    """Bytes of the states that recurrent mixers carry of a request."""
    page: int = 16
    """Positions of a cache block: a row keeps the state at the end of the last that ends before it does,"""
    every: int = 16
    """at each multiple of so many positions, and at its own end."""
    parameters: int = 0
    """All of them."""
    expert_parameters: tuple[tuple[int, int], ...] = ()
    """(number of experts, parameters of each) of each mixture layer."""
    encoder_expert_parameters: tuple[tuple[int, int], ...] = ()
    """The same of the encoder's."""
    architecture: Architecture | None = None
    machine: Machine | None = None
    """What it runs on, where that was measured."""

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        weight_bytes: float,
        cache_bytes: int,
        machine: Machine | None = None,
    ) -> Costs:
        """Costs of an architecture; `weight_bytes`, `cache_bytes`: of one number of the weights and of the cache."""
        architecture = without_memory(architecture)
        width, alone = architecture.width, flops_per_token(architecture, 1, memory=0)
        counted = parameters(architecture)
        always, each = weights_read(architecture)
        sizes = _expert_parameters(architecture.mixtures, width)
        encoder = _expert_parameters(architecture.encoder.mixtures if architecture.encoder else (), width)
        reading = counted.encoder - sum(count * size for count, size in encoder) + memory_weights(architecture)
        held = Counter[tuple[Span, int | None]]()
        for attention in architecture.attentions:
            for most, numbers in looked_at(attention):
                held[attention.span, most] += numbers * cache_bytes
        entry, state = sum(held.values()), state_bytes(architecture)
        carried: tuple[Price, ...] = ((Carried(), 2, state),) if state else ()
        return cls(
            token=replace(alone, scores=0, head=0),
            head=alone.head,
            scores=_score_prices(architecture),
            reads=tuple((span, most, size) for (span, most), size in held.items()) + carried,
            entry=entry,
            weights=round(always * weight_bytes),
            row=round(each * weight_bytes),
            experts=tuple(round(size * weight_bytes) for _, size in sizes),
            state=memory_bytes(architecture, 1) // BYTES["bfloat16"] * cache_bytes,
            crossing=flops_per_token(architecture, 1, memory=1).scores - alone.scores,
            encoder=round(reading * weight_bytes),
            encoder_experts=tuple(round(size * weight_bytes) for _, size in encoder),
            carried=state,
            parameters=counted.total,
            expert_parameters=sizes,
            encoder_expert_parameters=encoder,
            architecture=architecture,
            machine=machine,
        )

    def looked(self, start: int, stop: int) -> tuple[int, int]:
        """(operations of the scores, cache bytes read) of a row of positions [start, stop)."""
        scores = sum(each * positions_seen(span, start, stop, most) for span, most, each in self.scores)
        if stop - start == 1:
            read = sum(each * (positions_seen(span, start, stop, most) - 1) for span, most, each in self.reads)
        else:
            read = sum(each * (start - span.first_visible(start)) for span, _, each in self.reads)
        return scores, read

    def kept(self, start: int, stop: int) -> int:
        """Bytes of the states that a row of positions [start, stop) writes."""
        before = (stop - 1) // self.page * self.page
        count = stop // self.every - start // self.every + (stop % self.every > 0)
        return self.carried * (count + (before > start and before % self.every > 0))

    def looked_once(self) -> Callable[[int], tuple[int, int]]:
        """A function that gives `looked(position, position + 1)` faster, as most rows are single tokens."""
        if any(isinstance(span, Chunk) for span, *_ in self.scores):
            return lambda position: self.looked(position, position + 1)
        near = [(most, each, 0) for most, each in _limited(self.scores)]
        near += [(most, 0, each) for most, each in _limited(self.reads)]
        far, kept = (sum(each for *_, each in prices) for prices in (self.scores, self.reads))

        def looked(position: int) -> tuple[int, int]:
            """The cost if every position were in sight, less that of the positions which are not."""
            scores, read = far * (position + 1), kept * position
            for most, each, held in near:
                if position >= most:
                    scores -= each * (position + 1 - most)
                    read -= held * (position + 1 - most)
            return scores, read

        return looked

    def operations(self, tokens: int, logits: int, scores: int) -> Operations:
        """Operations by part of so many tokens, `logits` of them with logits; `scores`: sum of what `looked` gave."""
        one = self.token
        return Operations(
            one.projections * tokens,
            scores,
            one.feed_forward * tokens,
            one.experts * tokens,
            one.router * tokens,
            self.head * logits,
        )

    def encoding(self, states: int) -> Operations:
        """Operations of an encoder over a source of `states` tokens, and of the memory kept of it."""
        assert self.architecture is not None and self.architecture.encoder is not None, "there is no encoder"
        return encoding_flops(self.architecture, states)

    def weight_bytes(self, tokens: int, distinct: Sequence[int]) -> int:
        """Bytes of weights that a pass reads; `distinct`: how many experts of each mixture layer it touches."""
        touched = sum(count * size for count, size in zip(distinct, self.experts, strict=True))
        return self.weights + tokens * self.row + touched

    def encoder_bytes(self, states: int, distinct: Sequence[int]) -> int:
        """What reading a source takes; `distinct`: how many experts of each of the encoder's mixture layers it
        touches."""
        touched = sum(count * size for count, size in zip(distinct, self.encoder_experts, strict=True))
        return self.encoder + states * self.row + touched

    def touched(self, distinct: Sequence[int], encoder: Sequence[int] = ()) -> int:
        """All parameters but the routed experts that are not among the `distinct` of each mixture layer, of the decoder
        and of the encoder."""
        sizes = (*self.expert_parameters, *self.encoder_expert_parameters)
        pairs = zip((*distinct, *encoder), sizes, strict=True)
        return self.parameters - sum((experts - count) * size for count, (experts, size) in pairs)


def _expert_parameters(mixtures: tuple[tuple[int, MoE], ...], width: int) -> tuple[tuple[int, int], ...]:
    return tuple((moe.experts, feed_forward_parameters(moe.expert, width)) for _, moe in mixtures)


def _limited(prices: tuple[Price, ...]) -> Iterator[tuple[int, int]]:
    """(most positions, cost of each) of every price with a limit."""
    for span, most, each in prices:
        limits = [limit for limit in (span.size if isinstance(span, Window) else None, most) if limit is not None]
        if limits:
            yield min(limits), each


def _score_prices(architecture: Architecture) -> tuple[Price, ...]:
    """One price for all branches that look equally far, recurrent mixers at one state: the sum of their operations a
    position."""
    prices = Counter[tuple[Span, int | None]]()
    for mixer in architecture.recurrents:
        prices[Full(), 1] += recurrence_flops(mixer)
    for attention in architecture.attentions:
        for most, each in score_costs(attention):
            prices[attention.span, most] += each
    return tuple((span, most, each) for (span, most), each in prices.items())
