"""Learned sparse selection: which of the visible keys latent attention looks at (DeepSeek-V3.2, arXiv:2512.02556)."""

from __future__ import annotations

from torch import Tensor, nn

from model import config
from model.kernels.attention import Selection
from model.norm import Norm
from model.position import rotate


class Indexer(nn.Module):
    """Small heads that score every key by one small key of its own; the best `top_k` are attended.

    forward(x (T, width), query latent (T, query_rank), turn) → the selection and the small keys (T, 1, dim), which the
    cache stores behind the latent and its rotary key. The first dimensions turn, always in the half layout.
    """

    def __init__(self, value: config.Indexer, width: int, query_rank: int) -> None:
        super().__init__()
        self.value = value
        self.query = nn.Linear(query_rank, value.heads * value.dim, bias=False)
        self.key = nn.Linear(width, value.dim, bias=False)
        self.key_norm = Norm(config.Norm("layer", bias=True), value.dim)
        self.weights = nn.Linear(width, value.heads, bias=False)

    def forward(self, x: Tensor, latent: Tensor, turn: tuple[Tensor, Tensor] | None) -> tuple[Selection, Tensor]:
        query = self.query(latent).unflatten(-1, (self.value.heads, self.value.dim))
        key = self.key_norm(self.key(x))[:, None]
        if turn is not None:
            query, key = rotate(query, turn, "half"), rotate(key, turn, "half")
        return Selection(query, self.weights(x), self.value.top_k), key
