"""Weights of 8 bits: asked for by a setting, told in the model's card, refused where no kernel reads them."""

from __future__ import annotations

import pytest
import torch

from model.kernels import native
from server.build import BuildOptions, NoInt8, build_model
from server.metrics import PrometheusObserver
from server.transport.rpc.convert import model_message

SMALL = BuildOptions(weights="int8", scale="tiny", cache_tokens=256)
readable = pytest.mark.skipif(torch.float32 not in native.linear_types(), reason="no vector units or no compiler here")


@readable
def test_the_card_tells_that_weights_are_rounded_and_their_bytes_are_counted_so() -> None:
    served = build_model("llama-3.2-1b", SMALL, PrometheusObserver())
    whole = build_model("llama-3.2-1b", BuildOptions(scale="tiny", cache_tokens=256), PrometheusObserver())
    assert (served.card.weights, whole.card.weights) == ("int8", "whole")
    assert model_message(served.card).weights == "int8"
    rounded, full = (model.engine._runner.costs.weight_bytes(1, ()) for model in (served, whole))  # type: ignore[attr-defined]
    assert full == 4 * rounded


def test_without_a_kernel_for_them_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "linear_types", frozenset)
    with pytest.raises(NoInt8, match=r"'llama-3\.2-1b': weights=int8 needs"):
        build_model("llama-3.2-1b", SMALL, PrometheusObserver())
