"""A model without memory for its parameters: what a checkpoint or random numbers are filled into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from model.config import Architecture
from model.transformer import Transformer


def skeleton(architecture: Architecture) -> Transformer:
    """Every parameter and buffer in its shape, on the meta device. RuntimeError for sizes that no tensor can have."""
    with torch.device("meta"), _Unfilled():
        return Transformer(architecture)


def materialise(model: Transformer, dtype: torch.dtype) -> None:
    """Give a skeleton memory: uninitialised parameters in `dtype`, persistent buffers of zeros in float32."""
    parameters = {name for name, _ in model.named_parameters()}
    state = {
        name: torch.empty(tensor.shape, dtype=dtype) if name in parameters else torch.zeros(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)


class _Unfilled(TorchFunctionMode):
    """Skips initialisation: there is nothing to fill, and to find that out torch would load its compiler, which takes
    as long as everything else in the start of a server."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        arguments: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        named = named or {}
        if getattr(function, "__module__", None) == nn.init.__name__:
            return arguments[0] if arguments else named["tensor"]
        return function(*arguments, **named)
