"""Cross-attention: queries of the sequence, keys and values of a memory (arXiv:1706.03762 §3.2.3)."""

from __future__ import annotations

from torch import Tensor, nn

from model import config
from model.attention import Surroundings
from model.kernels.attention import Scores
from model.norm import build_norm


class CrossAttention(nn.Module):
    """forward(x (T, width), around) → (T, width). `layer` counts the cross-attention branches of the stack."""

    def __init__(self, value: config.CrossAttention, width: int, layer: int) -> None:
        super().__init__()
        heads, norm = value.heads, value.heads.qk_norm
        self.layer, self.heads = layer, heads
        self.scores = Scores(value.softmax_scale)
        self.query = nn.Linear(width, heads.query * heads.dim, bias=heads.bias)
        self.key_value = nn.Linear(width, 2 * heads.kv * heads.dim, bias=heads.bias)
        self.query_norm = build_norm(None if norm is None else norm.norm, heads.dim)
        self.key_norm = build_norm(None if norm is None else norm.norm, heads.dim)
        self.out = nn.Linear(heads.query * heads.dim, width, bias=value.out_bias)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        assert around.memory is not None, "a block with cross-attention runs only where there is a memory"
        query = self.query_norm(self.query(x).unflatten(-1, (self.heads.query, self.heads.dim)))
        attended = around.memory.attend(self.layer, query, self.project, self.scores)
        out: Tensor = self.out(attended.flatten(1))
        return out

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Memory states (n, width) → keys and values (n, kv heads, dim)."""
        key, value = self.key_value(states).unflatten(-1, (2, self.heads.kv, self.heads.dim)).unbind(1)
        return self.key_norm(key), value
