"""How weights are kept: asked for by a setting, told in the model's card, refused where no kernel reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.kernels import native
from model.kernels.panels import Form
from server.build import NoInt8, build_model
from server.config import Settings
from server.metrics import PrometheusObserver
from server.transport.rpc.convert import model_message
from tests.server.kit import settings

FORMS: tuple[Form, ...] = ("int8", "w8a8")
readable = pytest.mark.skipif(torch.float32 not in native.linear_types(), reason="no vector units or no compiler here")


def small(**more: Any) -> Settings:
    return settings(scale="tiny", cache_tokens=256, **more)


@readable
@pytest.mark.parametrize("form", FORMS)
def test_the_card_tells_that_weights_are_rounded_and_their_bytes_are_counted_so(form: Form) -> None:
    served = build_model("llama-3.2-1b", small(weights=form), PrometheusObserver())
    whole = build_model("llama-3.2-1b", small(), PrometheusObserver())
    assert (served.card.weights, whole.card.weights) == (form, "whole")
    assert model_message(served.card).weights == form
    rounded, full = (model.engine._runner.costs.weight_bytes(1, ()) for model in (served, whole))  # type: ignore[attr-defined]
    assert full == 4 * rounded


@pytest.mark.skipif(torch.bfloat16 not in native.linear_types(), reason="no bfloat16 vector units or no compiler here")
def test_bfloat16_is_kept_in_12_bits_unless_asked_otherwise() -> None:
    both = (small(dtype="bfloat16", weights=form) for form in ("lossless", "whole"))
    usual, whole = (build_model("llama-3.2-1b", given, PrometheusObserver()) for given in both)
    assert (usual.card.weights, whole.card.weights) == ("lossless", "whole")
    packed, full = (model.engine._runner.costs.weight_bytes(1, ()) for model in (usual, whole))  # type: ignore[attr-defined]
    assert 0.75 < packed / full < 0.77, "units that are kept whole count"
    heads = (model.engine._runner.model.head.weight for model in (usual, whole))  # type: ignore[attr-defined]
    assert [head.lossless is not None for head in heads] == [True, False]


@pytest.mark.parametrize("form", FORMS)
def test_without_a_kernel_for_them_they_are_refused(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "linear_types", frozenset)
    with pytest.raises(NoInt8, match=rf"'llama-3\.2-1b': weights={form} needs"):
        build_model("llama-3.2-1b", small(weights=form), PrometheusObserver())
