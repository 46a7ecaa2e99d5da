"""What a recurrent mixer does between its projections: convolution, states, norm and gate, in PyTorch, some tokens at a
time. The compiled kernel (native/recur.h) does the same token by token, for all rows of a step in one call.

Shape letters: B sequences of L tokens each, C numbers of a token's queries, keys and values, H heads, K and V
dimensions of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import FixedDecay, Recurrent

if TYPE_CHECKING:
    from model.kernels.recurring import CompiledMixing

CHUNK = 16  # tokens that are computed at once
UNIT_EPS = 1e-6  # under the root of a length, of keys and queries that are made as long as 1


@dataclass(frozen=True, slots=True)
class Mixing:
    """One mixer's values and weights: taps (C, width) and tap_bias (C,) of the convolution, rate (H,) the logarithm of
    the decay's rate, step_bias (steps,), skip (H,), norm (V,) or (H * V,); None where it has none."""

    value: Recurrent
    taps: Tensor | None
    tap_bias: Tensor | None
    rate: Tensor | None
    step_bias: Tensor | None
    skip: Tensor | None
    norm: Tensor | None
    compiled: CompiledMixing | None = None
    """The same for the compiled kernel, where it takes them."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What tokens bring, (..., n) each: queries, keys and values side by side (C), what the gate is made of (H * V, or
    nothing), the steps of the decay (H, H * K or nothing), the strength of the delta rule (H, or nothing)."""

    mixed: Tensor
    gate: Tensor
    decay: Tensor
    strength: Tensor

    def of(self, part: slice | Tensor, *shape: int) -> Fed:
        """Of some of the tokens, as (*shape, n)."""
        return Fed(*(x[part].reshape(*shape, x.shape[-1]) for x in (self.mixed, self.gate, self.decay, self.strength)))


@dataclass(frozen=True, slots=True)
class State:
    """What sequences carry: states (B, H, K, V), and the mixed numbers of the last width - 1 tokens (B, width - 1, C),
    float32 both."""

    heads: Tensor
    past: Tensor

    @classmethod
    def of(cls, value: Recurrent, numbers: Tensor) -> State:
        """From numbers (B, state_numbers), as they are kept."""
        size = value.heads * value.key_dim * value.value_dim
        heads, past = numbers.split((size, value.state_numbers - size), dim=-1)
        return cls(
            heads.unflatten(-1, (value.heads, value.key_dim, value.value_dim)),
            past.reshape(len(past), -1, value.mixed),
        )

    @classmethod
    def none(cls, value: Recurrent, batch: int, device: torch.device) -> State:
        """Before the first token."""
        return cls.of(value, torch.zeros(batch, value.state_numbers, device=device))

    @property
    def numbers(self) -> Tensor:
        return torch.cat((self.heads.flatten(1), self.past.flatten(1)), dim=-1)


def carry(mixing: Mixing, fed: Fed, state: State, wanted: Sequence[int] = ()) -> tuple[Tensor, list[State]]:
    """Run sequences on from their states, fed (B, L, n).

    Returns (B, L, H * V) in the type of what was fed, normed and gated, and the states after the tokens `wanted`
    (indices along L, rising). Everything in between is float32.
    """
    value, dtype, length = mixing.value, fed.mixed.dtype, fed.mixed.shape[1]
    whole = torch.cat((state.past, fed.mixed.float()), dim=1)
    query, key, values = _heads(mixing, _convolved(mixing, whole, length))
    drive = None if mixing.step_bias is None else fed.decay.float() + mixing.step_bias.float()
    discrete = value.learned is not None and value.learned.discrete
    entering = values * F.softplus(drive)[..., None] if drive is not None and discrete else values
    strength = torch.sigmoid(fed.strength.float())[..., None] if value.rule == "delta" else None
    lost = _lost(mixing, drive, fed.mixed)
    heads, read, after = state.heads, [], []
    for start, stop in pairwise(sorted({*range(0, length, CHUNK), *(t + 1 for t in wanted), length})):
        parts = (query, key, entering, lost, strength)
        own = (None if x is None else x[:, start:stop].transpose(1, 2) for x in parts)
        with torch.autocast(fed.mixed.device.type, enabled=False):
            out, heads = _chunk(heads, *own)  # type: ignore[arg-type]
        read.append(out.transpose(1, 2))
        if stop - 1 in wanted:
            after.append(State(heads, whole[:, stop : stop + state.past.shape[1]]))
    out = torch.cat(read, dim=1)
    if mixing.skip is not None:
        out = out + values * mixing.skip.float()[:, None]
    return _closed(mixing, out, fed.gate.float()).to(dtype), after


def _chunk(
    state: Tensor, query: Tensor, key: Tensor, entering: Tensor, lost: Tensor, strength: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Some tokens at once (arXiv:2412.06464 §3.3): what each reads (B, H, C, V), and the state after them.

    state (B, H, K, V), queries and keys (B, H, C, K), what enters (B, H, C, V), lost (B, H, C, K or 1), strength
    (B, H, C, 1) of the delta rule. What token s brought has shrunk by exp(-lost) of every token after it when t reads
    it; no exponent is positive, so that nothing overflows.
    """
    count = key.shape[-2]
    behind = torch.ones(count, count, dtype=torch.bool, device=key.device).tril(-1)[..., None]
    between = torch.where(behind, lost[..., :, None, :], 0).cumsum(-3)  # of tokens after s, up to t
    shares = torch.where(behind.transpose(0, 1), 0, (-between).exp())
    since = (-lost.cumsum(-2)).exp()

    def products(rows: Tensor) -> Tensor:
        """Of each row with the keys at its place and before it, as far as these are still kept (B, H, C, C)."""
        if shares.shape[-1] == 1:
            return rows @ key.mT * shares[..., 0]
        return torch.einsum("bhtk,bhsk,bhtsk->bhts", rows, key, shares)

    if strength is not None:  # what a key had stored is taken out, which all before it have a part in
        entering = strength * (entering - (key * since) @ state)
        entering = torch.linalg.solve_triangular(strength * products(key), entering, upper=False, unitriangular=True)
    out = (query * since) @ state + products(query) @ entering
    return out, since[..., -1:, :].mT * state + (key * shares[..., -1, :, :]).mT @ entering


def _convolved(mixing: Mixing, whole: Tensor, length: int) -> Tensor:
    """whole (B, width - 1 + L, C), what came before in front → (B, L, C)."""
    if mixing.taps is None:
        return F.silu(whole)
    taps, bias = mixing.taps.float(), mixing.tap_bias
    sums = [whole[:, i : i + length] * tap for i, tap in enumerate(taps.unbind(-1))]
    mixed = torch.stack(sums).sum(0)
    return F.silu(mixed if bias is None else mixed + bias.float())


def _heads(mixing: Mixing, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, C) → queries and keys (B, L, H, K), each key head for all that it serves, and values (B, L, H, V)."""
    value = mixing.value
    size = value.keys * value.key_dim
    query, key, values = mixed.split((size, size, value.inner), dim=-1)
    query, key = (x.unflatten(-1, (value.keys, value.key_dim)) for x in (query, key))
    if value.rule == "delta":
        query, key = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + UNIT_EPS) for x in (query, key))
        query = query * value.key_dim**-0.5
    query, key = (x.repeat_interleave(value.heads // value.keys, dim=2) for x in (query, key))
    return query, key, values.unflatten(-1, (value.heads, value.value_dim))


def _lost(mixing: Mixing, drive: Tensor | None, mixed: Tensor) -> Tensor:
    """How much of the states is lost at each token of mixed (B, L, C), as a logarithm: (B, L, H, K or 1). drive: what
    the steps of a learned decay are the softplus of."""
    value = mixing.value
    if drive is None or mixing.rate is None:
        return fixed_rates(value).to(mixed.device).expand(*mixed.shape[:2], -1)[..., None]
    rate, drive = mixing.rate.float().exp()[:, None], drive.unflatten(-1, (value.heads, -1))
    bound = None if value.learned is None else value.learned.bound
    return rate * F.softplus(drive) if bound is None else bound * torch.sigmoid(rate * drive)


def _closed(mixing: Mixing, read: Tensor, gate: Tensor) -> Tensor:
    """read (B, L, H, V) and gate (B, L, H * V or 0) → (B, L, H * V), normed and gated."""
    how, out = mixing.value.gate, read.flatten(2)
    if how is None:
        return _normed(mixing, out)
    opened = F.silu(gate) if how.activation == "silu" else torch.sigmoid(gate)
    return _normed(mixing, out * opened) if how.before_norm else _normed(mixing, out) * opened


def _normed(mixing: Mixing, x: Tensor) -> Tensor:
    value = mixing.value
    weight = norm_weight(mixing)
    if value.norm is None or weight is None:
        return x
    grouped = x.unflatten(-1, (norm_parts(value), -1))
    return F.rms_norm(grouped, grouped.shape[-1:], None, value.norm.eps).flatten(-2) * weight


def norm_parts(value: Recurrent) -> int:
    """How many parts of what is read are normed by themselves."""
    return {"head": value.heads, "key_head": value.keys, "all": 1}[value.norm_over]


def norm_weight(mixing: Mixing) -> Tensor | None:
    """What each number that is read is multiplied by (H * V,), float32; None without a norm."""
    value = mixing.value
    if value.norm is None or mixing.norm is None:
        return None
    weight = mixing.norm.float() + value.norm.offset
    return weight.repeat(value.heads) if value.norm_over == "head" else weight


def fixed_rates(value: Recurrent) -> Tensor:
    """The rates (H,) of a decay that is not learned."""
    assert isinstance(value.decay, FixedDecay)
    return value.decay.scale * torch.exp2(-8 * torch.arange(1, value.heads + 1) / value.heads)
