"""Weights in panels, and whole halves of blocks over them, give what the plain model gives; a row never depends on the
rows beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import config, presets
from model.dense import dense_input, dense_memory
from model.feedforward import FeedForward
from model.initialise import random_model
from model.kernels import experts, feeding, fused, native, packed, panels, passes
from model.kernels.layers import Layers
from model.moe import Experts, Router, Routing
from model.transformer import Transformer
from tests.server.engine import test_attending as attending

TYPES = sorted(native.linear_types(), key=str)
WIDE = 32  # columns of a panel
pytestmark = pytest.mark.skipif(not TYPES, reason="no vector units or no compiler here")


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


FORMS = get_args(panels.Form)


def kept(weight: Tensor, form: panels.Form) -> Tensor:
    """What a form leaves of a weight."""
    return weight if form in ("lossless", "whole") else rounded(weight)


def rounded(weight: Tensor) -> Tensor:
    """What 8 bits leave of a weight, with one scale a row."""
    scale = weight.float().abs().amax(-1, keepdim=True) / 127
    return (weight.float() / scale).round() * scale


def read(x: Tensor, form: str) -> Tensor:
    """Rows as a layer of that form reads them: in 8 bits every 32 numbers have one scale."""
    if form != "w8a8" or x.shape[-1] % panels.GROUP:
        return x
    groups = x.float().unflatten(-1, (-1, panels.GROUP))
    most = groups.abs().amax(-1, keepdim=True)
    factor = torch.where(most > 0, torch.full_like(most, 127) / most, 0.0)  # divided: 127 / most multiplies
    return ((groups * factor).round().double() * (most / 127)).flatten(-2)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_layer_in_panels_equals_the_plain_one(data: st.DataObject) -> None:
    draw = data.draw
    dtype, form, wide = draw(st.sampled_from(TYPES)), draw(st.sampled_from(FORMS)), draw(st.booleans())
    rows, columns = draw(st.integers(1, 80)), draw(st.integers(1, 5 * WIDE))
    depth = 16 * draw(st.integers(1, 12))
    weight, x = drawn(columns, depth, seed=0, dtype=dtype), drawn(rows, depth, seed=1, dtype=dtype)
    bias = drawn(columns, seed=2, dtype=dtype) if draw(st.booleans()) else None
    found = panels.linear(x, panels.lay_out(weight, bias, form=form), wide=wide)
    assert found.dtype == (torch.float32 if wide else dtype)
    expected = read(x, form).double() @ kept(weight, form).double().T
    expected = expected if bias is None else expected + bias.double()
    exact = found.dtype == torch.float32
    assert (found.double() - expected).abs().max() < (1e-5 if exact else 5e-3) * expected.abs().max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_row_alone_is_the_row_among_others_to_the_bit(dtype: torch.dtype, form: panels.Form) -> None:
    laid = panels.lay_out(drawn(200, 96, seed=0, dtype=dtype), form=form)
    x = drawn(61, 96, seed=1, dtype=dtype)
    alone = torch.cat([panels.linear(row[None], laid) for row in x])
    for rows in (2, 3, 4, 6, 7, 12, 13, 25, 61):
        assert torch.equal(panels.linear(x[:rows], laid), alone[:rows])


ACTIVATIONS = (*feeding.NAMES, config.ClampedGate(), config.ClampedGate(limit=0.8, slope=1.3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_row_fed_alone_is_the_row_fed_among_others_to_the_bit(
    dtype: torch.dtype, activation: Any, form: panels.Form
) -> None:
    """What is inlined more than once computes in the same order everywhere."""
    for gated in (True, False) if isinstance(activation, str) else (True,):
        plain = FeedForward(config.FeedForward(96, activation, gated=gated), 128).to(dtype).requires_grad_(False)
        for number, layer in enumerate((plain.up, plain.down)):
            layer.weight.copy_(drawn(*layer.weight.shape, seed=number, dtype=dtype) / 10)
        fed = feeding.PanelFeedForward(plain, form=form)
        x = 2 * drawn(61, 128, seed=2, dtype=dtype)
        alone = torch.cat([fed(row[None]) for row in x])
        for rows in (2, 3, 4, 6, 7, 12, 13, 25, 61):
            assert torch.equal(fed(x[:rows]), alone[:rows]), (gated, rows)


@pytest.mark.skipif(torch.bfloat16 not in TYPES, reason="no bfloat16 vector units here")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weights_in_12_bits_give_what_they_give_in_16_to_the_bit(data: st.DataObject) -> None:
    """Also where single weights are far from all others, nothing, or no number."""
    rows, columns, depth = (data.draw(st.integers(1, most)) for most in (80, 200, 40))
    weight, x = (drawn(n, 16 * depth, seed=n, dtype=torch.bfloat16) for n in (columns, rows))
    strange = st.sampled_from([0.0, -0.0, 1e-30, -1e30, 1e-40, float("inf"), float("nan")])
    for value in data.draw(st.lists(strange, max_size=6)):
        weight[data.draw(st.integers(0, columns - 1)), data.draw(st.integers(0, 16 * depth - 1))] = value
    laid = panels.lay_out(weight, form="lossless")
    found, expected = panels.linear(x, laid), panels.linear(x, panels.lay_out(weight, form="whole"))
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


@pytest.mark.skipif(torch.bfloat16 not in TYPES, reason="no bfloat16 vector units here")
def test_weights_are_kept_in_12_bits_only_where_that_saves_memory() -> None:
    usual = drawn(320, 256, seed=0, dtype=torch.bfloat16) / 50
    wild = usual * 2.0 ** torch.randint(-60, 60, usual.shape, generator=torch.Generator().manual_seed(0))
    laid, whole = panels.lay_out(usual), panels.lay_out(wild.bfloat16())
    assert laid.lossless is not None and whole.lossless is None
    size = sum(part.nbytes for part in (laid.numbers, *laid.lossless.parts))
    assert size < 0.77 * usual.nbytes
    assert panels.lay_out(usual.float()).lossless is None


def test_what_is_not_there_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def available(dtype: torch.dtype) -> dict[str, panels.Form | None]:
        return {form: panels.available(form, dtype) for form in FORMS}

    as_asked = {form: form for form in FORMS}
    assert available(torch.float32) == as_asked | {"lossless": "whole"}
    assert panels.weight_bytes("lossless", torch.float32) == 4 and panels.weight_bytes("int8", torch.float32) == 1
    if torch.bfloat16 in TYPES:
        assert available(torch.bfloat16) == as_asked
        assert panels.weight_bytes("lossless", torch.bfloat16) == 1.5
    monkeypatch.setattr(native, "linear_types", frozenset)
    assert available(torch.bfloat16) == {"lossless": "whole", "whole": "whole", "int8": None, "w8a8": None}
    assert panels.weight_bytes("lossless", torch.bfloat16) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_rounded_away(bad: float) -> None:
    """Not even where all others of its group are nothing; other rows keep theirs."""
    laid = panels.lay_out(drawn(40, 96, seed=0, dtype=torch.float32), form="w8a8")
    x = torch.zeros(3, 96)
    x[1, 70] = bad
    found = panels.linear(x, laid)
    assert found[1].isnan().all() and (found[::2] == 0).all()


def test_what_does_not_fit_is_told_apart() -> None:
    assert not panels.supported(torch.empty(8, 24))
    assert not panels.supported(torch.empty(8, 32, dtype=torch.float16))
    assert not panels.supported(torch.empty(8, 32, device="meta"))


ACTIVATIONS = [(kind, gated) for kind in feeding.NAMES for gated in (False, True)] + [(config.ClampedGate(0.8), True)]


@pytest.mark.parametrize("weigh", ["output", "input"])
@pytest.mark.parametrize(("activation", "gated"), ACTIVATIONS)
def test_experts_in_one_call_equal_one_after_another(activation: Any, gated: bool, weigh: str) -> None:
    """Some choices found no room, one expert is nobody's choice."""
    value = config.FeedForward(48, activation, gated=gated, bias=True)
    plain = Experts(value, 5, 32).requires_grad_(False)
    for i, parameter in enumerate(plain.parameters()):
        parameter.data = drawn(*parameter.shape, seed=i, dtype=torch.float32) / 4
    chosen = torch.rand(37, 4, generator=torch.Generator().manual_seed(3)).argsort(-1)[:, :2]
    chosen[::7, 1] = ~chosen[::7, 1]
    routing = Routing(chosen, drawn(37, 2, seed=4, dtype=torch.float32).abs(), torch.zeros(37, 5), torch.zeros(37, 3))
    x = drawn(37, 32, seed=5, dtype=torch.float32)
    found, expected = experts.PanelExperts(plain, "whole").mix(x, routing, weigh), plain.mix(x, routing, weigh)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    few = Routing(*(part[:5] for part in (routing.experts, routing.gates, routing.logits, routing.ranked)))
    assert torch.equal(experts.PanelExperts(plain, "whole").mix(x[:5], few, weigh), found[:5])
    fast = experts.PanelExperts(plain, "w8a8")
    assert [laid.numbers.dtype for laid in (fast.up[0], fast.down[0])] == [torch.uint8, torch.int8]
    found = fast.mix(x, routing, weigh)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    assert torch.equal(fast.mix(x[:5], few, weigh), found[:5])


WHOLE = [
    "tinyllama-1.1b",
    "qwen3-8b",
    "mixtral-8x7b",
    "gpt2-small",
    "gpt-oss-20b",
    "bloom-560m",
    "qwen1.5-moe-a2.7b",
    "qwen2.5-7b",
    "pythia-70m",
    "command-r-35b",
    "granite-3.0-1b-a400m",
    "grok-1-314b",
    "dbrx-132b",
    "minimax-m2",
    "llama-4-scout",
    "gemma-3-1b",
    "olmo-2-7b",
    "deepseek-v2-lite",
    "deepseek-v3",
    "deepseek-v3.2",
    "glm-5",
    "mistral-small-4-119b",
    "gemma-4-31b",
    "gemma-4-26b-a4b",
    "beam-501b-a23b",
]
PARTS = ["switch-base-8"]


def logits(model: Transformer, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        memory = dense_memory(model, tokens) if model.encoder is not None else None
        return model(dense_input(model.architecture, tokens, memory)).logits


OUTSIDE = ("switch-", "transformer-")  # the presets that PyTorch has a part in


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_router_scores_what_its_norm_gives_in_the_type_of_the_model(dtype: torch.dtype) -> None:
    """Rounded, as in a layer by itself: else near ties would go to other experts."""
    value = config.MoE(12, 2, config.FeedForward(32), config.Router(norm=config.Norm()))
    plain = Router(value, 64).requires_grad_(False).to(dtype)
    x = 3 * drawn(40, 64, seed=0, dtype=dtype)
    expected = F.linear(plain.norm(x).float(), plain.weight.float())
    equal = (experts.PanelRouter(plain).eval()(x).logits - expected).abs().amax(-1) < 1e-5
    assert equal.float().mean() > 0.9  # the norm's own last bit may fall on either side


@pytest.mark.parametrize("name", presets.names())
def test_a_model_made_fast_gives_the_same_logits(name: str) -> None:
    architecture = presets.scaled(presets.load(name), "tiny")
    tokens = torch.randint(architecture.vocab, (3, 21), generator=torch.Generator().manual_seed(1))
    model = random_model(architecture, 0).eval()
    expected = logits(model, tokens)
    passes.apply(model)
    assert not any(module.training for module in model.modules())
    assert (passes.left(model) > 0) == (name.startswith(OUTSIDE))
    assert (logits(model, tokens) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", WHOLE + PARTS)
def test_blocks_of_the_common_shape_are_fused(name: str) -> None:
    model = passes.apply(random_model(presets.scaled(presets.load(name), "tiny"), 0).eval())
    blocks = [block for module in model.blocks for block in (module.blocks if isinstance(module, Layers) else [module])]
    assert len(blocks) == len(model.architecture.blocks)
    assert all(isinstance(block, fused.FusedBlock) for block in blocks) == (name in WHOLE)
    assert passes.left(model) == (0 if name in WHOLE else len(blocks))


@pytest.mark.skipif(torch.bfloat16 not in TYPES, reason="no bfloat16 vector units here")
@pytest.mark.parametrize("name", ["tinyllama-1.1b", "gpt2-small", "deepseek-v2-lite", "gemma-3-1b", "beam-501b-a23b"])
def test_in_bfloat16_a_fast_model_is_no_further_from_float32(name: str) -> None:
    architecture = presets.scaled(presets.load(name), "tiny")
    tokens = torch.randint(architecture.vocab, (4, 32), generator=torch.Generator().manual_seed(1))
    model = random_model(architecture, 0, torch.bfloat16)
    exact = random_model(architecture, 0)
    exact.load_state_dict(model.state_dict())
    true = logits(exact, tokens)
    plain = (logits(model, tokens) - true).abs().mean()
    fast = (logits(passes.apply(model), tokens) - true).abs().mean()
    assert fast < 1.1 * plain


@pytest.mark.skipif(torch.bfloat16 not in TYPES, reason="no bfloat16 vector units here")
@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mixtral-8x7b", "gemma-3-1b"])
def test_a_model_in_12_bits_is_the_model_in_16_to_the_bit(name: str) -> None:
    """Gates and their values, experts, heads and whole blocks; with few rows and with many."""
    architecture = presets.scaled(presets.load(name), "tiny")
    lossless, whole = (
        passes.apply(random_model(architecture, 0, torch.bfloat16), form=form) for form in ("lossless", "whole")
    )
    kept = [module.weight for module in lossless.modules() if isinstance(module, packed.PanelLinear)]
    assert kept and all(weight.lossless is not None for weight in kept)
    for shape in ((1, 3), (3, 21)):
        tokens = torch.randint(architecture.vocab, shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(logits(lossless, tokens), logits(whole, tokens))


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mixtral-8x7b"])
def test_eight_bits_are_what_rounding_the_weights_gives(name: str) -> None:
    architecture = presets.scaled(presets.load(name), "tiny")
    tokens = torch.randint(architecture.vocab, (2, 16), generator=torch.Generator().manual_seed(1))
    model, reference = random_model(architecture, 0), random_model(architecture, 0)
    whole = logits(model, tokens)
    for module in reference.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounded(module.weight)
        elif isinstance(module, Experts):
            module.up.data, module.down.data = rounded(module.up), rounded(module.down)
    found, expected = logits(passes.apply(model, form="int8"), tokens), logits(reference, tokens)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    assert (found - whole).abs().max() > 1e-4 * whole.abs().max(), "it does round"


class ReadsBytes(torch.nn.Module):
    """A plain linear layer between rounded rows and rounded weights."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = rounded(plain.weight), plain.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(read(x, "w8a8").float(), self.weight, self.bias)


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "pythia-70m", "olmo-2-7b", "gemma-3-1b"])
def test_eight_bits_on_both_sides_are_what_rounding_both_gives(name: str) -> None:
    """Numbers that lie between two whole ones may fall to either, so that the results are near and not the same."""
    architecture = presets.scaled(presets.load(name), "tiny")
    tokens = torch.randint(architecture.vocab, (2, 16), generator=torch.Generator().manual_seed(1))
    model, reference = random_model(architecture, 0), random_model(architecture, 0)
    whole = logits(model, tokens)
    for parent in list(reference.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(parent, child_name, ReadsBytes(child))
    found, expected = logits(passes.apply(model, form="w8a8"), tokens), logits(reference, tokens)
    assert (found - expected).abs().mean() < 0.3 * (whole - expected).abs().mean()
    assert (whole - expected).abs().mean() < 0.02 * whole.abs().max()


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Kernels built as for a processor with matrix tiles, the tiles themselves in plain C++."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-DDYNO_EMULATE_TILES"))
    forget_kernels()
    assert native.library() is not None
    yield
    forget_kernels()


def forget_kernels() -> None:
    native.library.cache_clear()
    native.kernels.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(torch.bfloat16 not in TYPES, reason="no bfloat16 vector units here")
def test_matrix_tiles_take_rows_and_panels_as_the_vector_units_do(tiles: None) -> None:
    assert native.kernels().dyno_features() & 4
    for rows, columns, depth in ((9, 33, 32), (16, 64, 96), (17, 100, 64), (40, 32, 160), (77, 96, 48)):
        weight, x = (drawn(n, depth, seed=n, dtype=torch.bfloat16) for n in (columns, rows))
        for form in FORMS:
            laid = panels.lay_out(weight, form=form)
            expected = read(x, form).double() @ kept(weight, form).double().T
            found = panels.linear(x, laid, wide=True)
            assert (found.double() - expected).abs().max() < 1e-5 * expected.abs().max()
            assert torch.equal(panels.linear(x[:-1], laid, wide=True), found[:-1])
    for name in ("tinyllama-1.1b", "mixtral-8x7b", "deepseek-v2-lite"):
        test_in_bfloat16_a_fast_model_is_no_further_from_float32(name)
    attending.test_the_compiled_step_equals_the_plain_one()  # attention of prompts, whose tasks use tiles or do not
