"""What a machine can do and what a model makes of it: a prefill by hand, the stopwatch, limits on disk, the command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from model import limits, presets, share, steady, timing
from model.__main__ import app
from model.config import Window
from model.dense import dense_input
from model.initialise import random_model
from model.kernels import passes
from model.limits import Limits, Unmeasured, size_class
from model.operations import flops_per_token
from model.paged import PagedView
from model.parameters import parameters
from model.roofline import Machine, prefill_roofline, roofline
from tests.model.cases import MIXTURE_CASES

MACHINE = Machine(memory=80e9, bandwidth=2e12, flops=300e12)


# ------------------------------------------------------------------------------------------------------ formulas


def test_a_prefill_computes_the_logits_of_its_last_token_only() -> None:
    llama = presets.load("llama-2-7b")
    one = prefill_roofline(llama, MACHINE, 1)
    assert (one.seconds, one.flops) == (roofline(llama, MACHINE, 1, 1).seconds, flops_per_token(llama, 1).total)
    long = prefill_roofline(llama, MACHINE, 1024)
    everything = sum(flops_per_token(llama, length).total for length in range(1, 1025))
    assert long.flops == everything - 1023 * 2 * 32000 * 4096
    assert long.bound == "compute" and long.tokens_per_second == pytest.approx(1024 * 300e12 / long.flops)


def test_a_step_without_an_image_passes_no_blocks_that_look_at_one() -> None:
    vision = presets.load("llama-3.2-11b-vision")
    text = replace(vision, blocks=tuple(block for block in vision.blocks if not block.needs_memory))
    assert len(text.blocks) == 32
    decode, prefill = roofline(vision, MACHINE, 8, 1024), prefill_roofline(vision, MACHINE, 1024)
    assert decode == roofline(text, MACHINE, 8, 1024) and prefill == prefill_roofline(text, MACHINE, 1024)
    assert decode.weight_bytes < 2 * parameters(text).total and decode.flops == 8 * flops_per_token(text, 1024).total


# ----------------------------------------------------------------------------------------------------- measuring


def test_a_stopwatch_keeps_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert len(timing.repeat(lambda: calls.append(1), budget=0.0).seconds) == 3 and len(calls) == 4
    assert len(timing.repeat(lambda: None, budget=1e9, most=7).seconds) == 7


def test_beside_another_call_what_the_machine_gives_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that takes twice as long as another one, on a machine that is now quick and now slow; its first time after
    the other one takes longer still."""
    now, pace, cold, paces = 0.0, 1.0, False, itertools.cycle([1.0, 1.0, 5.0, 5.0, 5.0])

    def other() -> None:
        nonlocal now, pace, cold
        pace, cold = next(paces), True
        now += pace

    def one() -> None:
        nonlocal now, cold
        now += pace * (9.0 if cold else 2.0)
        cold = False

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    assert timing.beside(one, other, 100.0) == pytest.approx(2.0)


def test_a_timing_in_a_few_numbers() -> None:
    timed = timing.Timing((1.0, 2.0, 3.0, 4.0, 50.0))
    assert (timed.best, timed.typical, timed.median, timed.spread) == (1.0, 2.0, 3.0, 1.0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What was measured, with limits that are quick to find."""
    found: list[object] = []

    def read(size: int, budget: float) -> float:
        found.append(size)
        return 1e10 + size

    def multiply(dtype: torch.dtype, shapes: object, budget: float) -> float:
        found.append(dtype)
        return 1e12

    monkeypatch.setattr(limits, "read_rate", read)
    monkeypatch.setattr(limits, "matrix_rate", multiply)
    yield found


def test_limits_are_measured_once_and_kept(tmp_path: Path, measured: list[object]) -> None:
    first = Limits(tmp_path)
    assert first.bandwidth(3e6) == first.bandwidth(4 << 20) == 1e10 + (4 << 20)
    assert first.rate("bfloat16") == 1e12
    assert measured == [4 << 20, torch.bfloat16]
    again = Limits(tmp_path).machine(4 << 20, "bfloat16")
    assert (again.bandwidth, again.flops) == (1e10 + (4 << 20), 1e12) and len(measured) == 2
    assert Limits(tmp_path, fresh=True).rate("bfloat16") == 1e12 and len(measured) == 3


def test_a_limit_is_the_best_ever_found_unless_that_is_forgotten(
    tmp_path: Path, measured: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    Limits(tmp_path).bandwidth(1)
    Limits(tmp_path).rate("float32")
    monkeypatch.setattr(limits, "matrix_rate", lambda dtype, shapes, budget: 5e11)  # while others are busy
    assert Limits(tmp_path, fresh=True).rate("float32") == 1e12
    monkeypatch.setattr(limits, "matrix_rate", lambda dtype, shapes, budget: 2e12)
    assert Limits(tmp_path, fresh=True).rate("float32") == Limits(tmp_path).rate("float32") == 2e12
    monkeypatch.setattr(limits, "matrix_rate", lambda dtype, shapes, budget: 5e11)
    assert Limits(tmp_path, fresh=True, forget=True).rate("float32") == Limits(tmp_path).rate("float32") == 5e11
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {"read": {}, "multiply": {"float32": 5e11}}


def test_what_is_known_is_told_without_measuring(tmp_path: Path, measured: list[object]) -> None:
    known = Limits(tmp_path).machine(4 << 20, "float32")
    assert Limits(tmp_path, brief=True, measures=False).machine(3 << 20, "float32") == known
    for size, dtype in ((1 << 20, "float32"), (4 << 20, "bfloat16")):
        with pytest.raises(Unmeasured):
            Limits(tmp_path, brief=True, measures=False).machine(size, dtype)
    assert len(measured) == 2


def test_a_file_that_is_not_ours_is_measured_over(tmp_path: Path, measured: list[object]) -> None:
    Limits(tmp_path).bandwidth(1)
    (path,) = tmp_path.iterdir()
    for broken in ("", "[]", '{"read": 3}', '{"read": {"1048576": "x"}, "multiply": {}}'):
        path.write_text(broken)
        Limits(tmp_path).bandwidth(1)
        assert json.loads(path.read_text())["read"] == {"1048576": 1e10 + (1 << 20)}


def test_a_brief_look_reads_less_but_believes_what_is_known(tmp_path: Path, measured: list[object]) -> None:
    Limits(tmp_path, brief=True).bandwidth(900e6)
    assert measured[0] == min(size_class(4 * limits.machine.last_cache()), 256 << 20) or measured == [1 << 30]
    Limits(tmp_path).bandwidth(900e6)
    assert Limits(tmp_path, brief=True).bandwidth(900e6) == 1e10 + size_class(900e6)


def test_rates_are_those_of_a_computer() -> None:
    assert 1e8 < limits.read_rate(4 << 20, 0.01) < 1e14
    assert 1e7 < limits.matrix_rate(torch.float32, ((32, 64, 64),), 0.01) < 1e16


# ------------------------------------------------------------------------------------------------------- a model


@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3", "gemma-2-2b", "switch-base-8"])
def test_a_steady_step_is_the_models_own(name: str) -> None:
    """With nothing before it, a token has the logits of a sequence of one."""
    tiny = presets.scaled(presets.load(name), "tiny")
    if tiny.encoder is not None:
        with pytest.raises(share.ConfigError, match="only predicted"):
            share.build(name, tiny, "float32")
        return
    model = random_model(tiny, 0).eval().requires_grad_(False)
    (step, *_) = steady.steady_inputs(model, rows=3, length=1)
    alone = model(dense_input(tiny, step.tokens[:, None])).logits
    torch.testing.assert_close(model(step).logits, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3", "gemma-2-2b", "bloom-560m"])
def test_a_prompt_is_the_models_own(name: str) -> None:
    tiny = presets.scaled(presets.load(name), "tiny")
    model = passes.apply(random_model(tiny, 0).eval().requires_grad_(False))
    (step, *_) = steady.prompt_inputs(model, 40)
    alone = model(dense_input(tiny, step.tokens[None])).logits[-1:]
    torch.testing.assert_close(model(step).logits, alone, atol=1e-4, rtol=1e-4)


def test_a_steady_step_fills_no_expert_that_another_sequence_chose() -> None:
    model = random_model(MIXTURE_CASES["capacity, Switch"], 0).eval().requires_grad_(False)
    (step, *_) = steady.steady_inputs(model, rows=3, length=1)
    assert step.loads is not None and step.loads.sequence.tolist() == [0, 1, 2]
    alone = [model(dense_input(model.architecture, token[None, None])).logits for token in step.tokens]
    torch.testing.assert_close(model(step).logits, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_window_is_read_and_no_more() -> None:
    tiny = presets.scaled(presets.load("mistral-7b"), "tiny")
    (span,) = {attention.span for attention in tiny.attentions}
    assert isinstance(span, Window)
    (step, *_) = steady.steady_inputs(random_model(tiny, 0), 2, 5 * span.size)
    assert isinstance(step.cache, PagedView)
    (group,) = step.cache.groups
    assert group.decode is not None
    pages = group.decode.pages
    assert pages.first.tolist() == [4 * span.size] * 2 and pages.last.tolist() == [5 * span.size - 1] * 2
    assert pages.table.shape[1] <= span.size // steady.PAGE + 2


def test_the_command_tells_what_is_possible_and_what_was_reached(measured: list[object], tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    flags = ["--streams", "2", "--prompt", "8", "--seconds", "0.01", "--json", "--dtype", "float32"]
    answer = CliRunner().invoke(app, ["roofline", "mixtral", "--scale", "tiny", *flags], env=environment)
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.output)
    decode, prefill = told["models"]["mixtral"]["steps"]
    assert set(told["limits"]) == {"read", "bfloat16", "float32"}
    assert (decode["step"], prefill["step"]) == ("decode 2", "prefill 8")
    assert (decode["share_of_reading"] is not None) == (decode["bound"] == "memory") and prefill[
        "share_of_reading"
    ] is None
    for step in (decode, prefill):
        assert step["tokens_per_second"] == pytest.approx(step["share"] * step["best_tokens_per_second"])
    shown = CliRunner().invoke(app, ["roofline", "mixtral", "--scale", "tiny", "--predict"], env=environment)
    assert "decode 32" in shown.output and "a token reads" in shown.output


def test_a_model_too_large_is_only_predicted(measured: list[object], tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["roofline", "deepseek-v3"], env={"XDG_CACHE_HOME": str(tmp_path)})
    assert isinstance(answer.exception, share.ConfigError) and "--predict" in str(answer.exception)
