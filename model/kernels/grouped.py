"""All experts of a layer at once on a CUDA GPU: one matrix product over tokens sorted by expert, whose borders stay on
the GPU. The plain way asks the host how many tokens each expert has, and the host waits for everything before.

A pass over a built model: `group(model)` replaces what lies on a GPU and leaves the rest as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.feedforward import activate
from model.moe import Experts, ExpertStack
from model.transformer import Transformer

ALIGNED = 16  # bytes that a row of every matrix must be a multiple of
LARGEST = 1 << 14  # products of rows and experts that are worth more arithmetic to keep the host from waiting


class GroupedExperts(ExpertStack):
    """Stands in for Experts, and computes with the same weights.

    With weights that the grouped product does not take (float32, odd sizes) every expert runs on all rows while those
    are few, and on its own ones when they are many.
    """

    def __init__(self, plain: Experts) -> None:
        super().__init__(plain.value, plain.count)
        self.plain = plain
        self.fused = fits(plain.up) and fits(plain.down)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        y: Tensor = self.plain(x, expert)
        return y

    def each(self, rows: Tensor, experts: Tensor, order: Tensor) -> Tensor:
        chosen = experts[order]
        if self.fused:
            return self._fused(rows, chosen)
        if len(rows) * self.count <= LARGEST:
            return self._over_all(rows, chosen)
        return super().each(rows, experts, order)

    def _fused(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """rows (n, width) by the grouped product; chosen (n,) ascending. Rows of no expert give 0."""
        plain, own = self.plain, chosen.clamp(max=self.count - 1)
        every = torch.arange(self.count, device=chosen.device)
        ends = torch.searchsorted(chosen, every, right=True).int()
        hidden = F.grouped_mm(rows, plain.up.transpose(1, 2), offs=ends)
        if plain.up_bias is not None:
            hidden = hidden + plain.up_bias[own]
        y = F.grouped_mm(activate(self.value, hidden), plain.down.transpose(1, 2), offs=ends)
        if plain.down_bias is not None:
            y = y + plain.down_bias[own]
        # The product leaves rows of no expert unwritten.
        return torch.where((chosen < self.count)[:, None], y, 0)

    def _over_all(self, rows: Tensor, chosen: Tensor) -> Tensor:
        y = torch.zeros_like(rows)
        for expert in range(self.count):
            y = torch.where((chosen == expert)[:, None], self.plain(rows, expert), y)
        return y


def fits(weight: Tensor) -> bool:
    """Whether PyTorch's grouped product takes this stack of weights on a GPU: bfloat16, rows and columns aligned."""
    aligned = all(size * weight.itemsize % ALIGNED == 0 for size in weight.shape[1:])
    return weight.dtype == torch.bfloat16 and aligned


def group(model: Transformer) -> int:
    """Replace every stack of experts that lies on a GPU; returns how many."""
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Experts) and child.up.is_cuda:
                setattr(parent, name, GroupedExperts(child))
                count += 1
    return count
