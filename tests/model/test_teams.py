"""However many threads share the rows and panels of a layer, its results are the same to the bit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import presets
from model.dense import dense_input
from model.initialise import random_model
from model.kernels import native, panels, passes
from model.transformer import Transformer

TYPES = sorted(native.linear_types(), key=str)
FORMS: tuple[panels.Form, ...] = ("lossless", "whole", "int8", "w8a8")
pytestmark = pytest.mark.skipif(not TYPES, reason="no vector units or no compiler here")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def with_threads(count: int, call: Callable[[], Tensor]) -> Tensor:
    torch.set_num_threads(count)
    with torch.inference_mode():
        return call()


def logits(model: Transformer, tokens: Tensor) -> Tensor:
    found: Tensor = model(dense_input(model.architecture, tokens)).logits
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_of_a_layer(data: st.DataObject) -> None:
    """Rows of one block, whose columns are shared out, and of several; columns that are no whole lines of memory."""
    dtype, form = data.draw(st.sampled_from(TYPES)), data.draw(st.sampled_from(FORMS))
    rows, threads = data.draw(st.integers(1, 50)), data.draw(st.integers(2, 9))
    depth, columns = 16 * data.draw(st.integers(1, 20)), data.draw(st.integers(1, 300))
    weight, x = (torch.randn(n, depth, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (columns, rows))
    laid = panels.lay_out(weight, form=form)
    alone = with_threads(1, lambda: panels.linear(x, laid))
    assert torch.equal(with_threads(threads, lambda: panels.linear(x, laid)), alone)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mixtral-8x7b"])
def test_of_a_model(name: str, dtype: torch.dtype, form: panels.Form) -> None:
    """Norms, gates, routers and experts included."""
    architecture = presets.scaled(presets.load(name), "tiny")
    model = passes.apply(random_model(architecture, 0, dtype).eval(), form=form)
    for shape in ((1, 1), (1, 5), (1, 12), (3, 9)):
        tokens = torch.randint(architecture.vocab, shape, generator=torch.Generator().manual_seed(1))
        alone, *others = (with_threads(count, partial(logits, model, tokens)) for count in (1, 2, 3, 5))
        assert all(torch.equal(other, alone) for other in others)


def test_callers_have_teams_of_their_own_that_end_with_them() -> None:
    """Four callers at once, each with three threads; a model that is loaded is rehearsed while others are served."""
    laid, x = panels.lay_out(torch.randn(700, 160)), torch.randn(40, 160)
    alone, before = with_threads(1, lambda: panels.linear(x, laid)), _threads()
    torch.set_num_threads(3)

    def calls(_: int) -> bool:
        torch.set_num_threads(3)  # each thread has a number of its own
        with torch.inference_mode():
            return all(torch.equal(panels.linear(x, laid), alone) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(calls, range(4)))
    ends = time.monotonic() + 10
    while _threads() > before and time.monotonic() < ends:
        time.sleep(0.01)  # a thread's team ends a moment after it
    assert _threads() <= before


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_torch_is_alone_while_kernels_keep_their_threads() -> None:
    torch.set_num_threads(2)
    with native.alone():
        assert (torch.get_num_threads(), native.threads()) == (1, 2)
        with native.alone():
            assert (torch.get_num_threads(), native.threads()) == (1, 2)
    assert (torch.get_num_threads(), native.threads()) == (2, 2)
    with pytest.raises(ValueError), native.alone():
        raise ValueError
    assert (torch.get_num_threads(), native.threads()) == (2, 2)
    with native.alone(False):
        assert (torch.get_num_threads(), native.threads()) == (2, 2)


@pytest.mark.parametrize("first", [native.begin, native.alone], ids=["builds", "serves"])
def test_a_thread_that_torch_first_sees_meanwhile_has_all(
    first: Callable[[], AbstractContextManager[None] | None],
) -> None:
    """One that builds a model, or an engine's whose first step comes while another model is rehearsed."""
    found = []

    def begin() -> None:
        with first() or contextlib.nullcontext():
            found.append(native.threads())
        found.append(torch.get_num_threads())

    with native.alone():
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
    assert found == [native.THREADS, native.THREADS]


def test_a_model_is_lean_where_the_kernels_have_all_its_layers() -> None:
    model = random_model(presets.scaled(presets.load("tinyllama-1.1b"), "tiny"), 0).eval().requires_grad_(False)
    assert not passes.lean(model)
    assert passes.lean(passes.apply(model)) is bool(native.linear_types())
