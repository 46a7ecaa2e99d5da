"""Linear layers with weights laid out once for this processor, on CPUs: in our panels where its vector units suit them,
else for its vector and matrix units by oneDNN.

A pass over a built model: `pack(model)` replaces what it can and leaves the rest as it is. Plain layers lay the weight
out again at every call, which is most of their time when a step has few tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.feedforward import activate
from model.kernels import experts, feeding, panels
from model.kernels.panels import Form
from model.moe import Beside, Experts, ExpertStack, MoE, Router
from model.transformer import Transformer

HINT = 32  # rows the layout is chosen for; measured equal to the others from 1 to 512 rows


def supported(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has the packed layer for weights of this type and the processor a use for it."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def lay_out(weight: Tensor) -> Tensor:
    """A weight (out, in) in the layout of this processor: opaque, only for `packed_linear`."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), HINT)
    return packed


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear with a weight from `lay_out`."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class PackedLinear(nn.Module):
    """Stands in for a linear layer of weight (out, in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = lay_out(weight.detach())
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return packed_linear(x, self.weight, self.bias)


class PanelLinear(nn.Module):
    """Stands in for a linear layer whose weight (out, in) can be laid out in panels.

    form: of the weight. wide: results are float32, as those of the head that become logits.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, form: Form, wide: bool = False) -> None:
        super().__init__()
        self.weight, self.wide = panels.lay_out(weight, bias, form=form), wide

    def forward(self, x: Tensor) -> Tensor:
        return panels.linear(x, self.weight, wide=self.wide)


class PackedExperts(ExpertStack):
    """Stands in for Experts, every expert's weights laid out apart."""

    def __init__(self, plain: Experts) -> None:
        super().__init__(plain.value, plain.count)
        self.up = [lay_out(weight.detach()) for weight in plain.up]
        self.down = [lay_out(weight.detach()) for weight in plain.down]
        self.up_bias = None if plain.up_bias is None else plain.up_bias.detach()
        self.down_bias = None if plain.down_bias is None else plain.down_bias.detach()

    def forward(self, x: Tensor, expert: int) -> Tensor:
        hidden = packed_linear(x, self.up[expert], None if self.up_bias is None else self.up_bias[expert])
        bias = None if self.down_bias is None else self.down_bias[expert]
        return packed_linear(activate(self.value, hidden), self.down[expert], bias)


def pack(model: Transformer, *, form: Form = "lossless") -> int:
    """Replace every linear layer and expert stack that can be; returns how many, 0 where that is not supported.

    form: of the weights of layers in panels; others stay as they are. The plain weights are gone, but
    for an embedding that also serves as the head.
    """
    count = 0
    if model.head is None and _fits(model.embedding.weight):
        model.head = _linear(model.embedding.weight, model.head_bias, form, wide=True)
        count += 1
    elif isinstance(model.head, nn.Linear) and _fits(model.head.weight):
        model.head = _linear(model.head.weight, model.head.bias, form, wide=True)
        count += 1
    for parent in list(model.modules()):
        if isinstance(parent, MoE) and feeding.fits(parent.shared):
            # With its gate, so that it is one call.
            parent.shared = feeding.PanelFeedForward(parent.shared, parent.shared_gate, form=form)
            parent.shared_gate = None
            count += 1
        elif isinstance(parent, Beside):
            count += _pack_beside(parent, form)
        for name, child in list(parent.named_children()):
            packed = _packed(child, form)
            if packed is not None:
                setattr(parent, name, packed)
                count += 1
    return count


def _pack_beside(branch: Beside, form: Form) -> int:
    """Replace the parts of a branch with the norms around them, so that each is one call; returns how many. Where
    shared experts are between the same norms as the others, it is none."""
    dense, mixture = branch.dense, branch.mixture
    if not feeding.fits(dense) or not experts.fits(mixture.experts) or mixture.shared is not None:
        return 0
    of_dense, of_experts = zip(branch.norms_before, branch.norms_after, strict=True)
    branch.dense = feeding.PanelFeedForward(dense, norms=of_dense, form=form)
    mixture.experts = experts.PanelExperts(mixture.experts, form, of_experts)
    branch.norms_before = branch.norms_after = nn.ModuleList(nn.Identity() for _ in range(2))
    return 2


def _packed(module: nn.Module, form: Form) -> nn.Module | None:
    if feeding.fits(module):
        return feeding.PanelFeedForward(module, form=form)
    if isinstance(module, nn.Linear) and _fits(module.weight):
        return _linear(module.weight, module.bias, form)
    if type(module) is Router and _fits(module.weight) and panels.supported(module.weight.float()):
        return experts.PanelRouter(module)
    if not isinstance(module, Experts) or not _fits(module.up):
        return None
    return experts.PanelExperts(module, form) if experts.fits(module) else PackedExperts(module)


def _linear(weight: Tensor, bias: Tensor | None, form: Form, *, wide: bool = False) -> nn.Module:
    if panels.supported(weight):
        return PanelLinear(weight, bias, form=form, wide=wide)
    return PackedLinear(weight, bias)


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and (supported(weight.dtype) or panels.supported(weight))
