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
