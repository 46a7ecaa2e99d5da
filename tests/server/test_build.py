"""From a name to a served model: what its card says, and what is refused before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from model import limits, machine
from model.checkpoint import native
from model.checkpoint.error import CheckpointError
from model.config import Architecture, Block, ConfigError, FeedForward
from model.initialise import random_model
from model.inspect import inspect
from server.build import TooLarge, build_model
from server.metrics import PrometheusObserver
from server.models import ServedModel
from tests.server.kit import settings


def inspected(name: str, *options: str) -> dict[str, Any]:
    """The card of a model that `dyno inspect --json` prints."""
    asked = [name, "--json", "--dtype", "float32", *options]
    [card] = json.loads(CliRunner().invoke(_inspecting(), asked).stdout)
    return dict(card)


def _inspecting() -> typer.Typer:
    app = typer.Typer()
    app.command()(inspect)
    return app


def told(served: ServedModel) -> dict[str, Any]:
    return json.loads(orjson.dumps({**served.card.card, "architecture": served.card.architecture}))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "scale"), [("pythia-70m", None), ("llama-3.2-11b-vision", "tiny"), ("switch-base-8", "tiny")]
)
def test_the_card_is_the_one_that_inspect_prints(name: str, scale: str | None) -> None:
    served = build_model(name, settings(scale=scale, cache_tokens=512), PrometheusObserver())
    card = inspected(name, *(["--scale", scale] if scale else []))
    assert told(served) == card
    assert (card["published"] is None) == (scale is not None)


def test_active_parameters_are_those_that_facts_of_requests_count() -> None:
    served = build_model("llama-3.2-11b-vision", settings(scale="tiny", cache_tokens=512), PrometheusObserver())
    costs = served.engine._runner.costs  # type: ignore[attr-defined]
    assert costs.touched(()) == served.card.active_parameters < served.card.total_parameters


def test_a_file_that_was_made_small_is_told_with_both_sizes(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(CliRunner().invoke(_inspecting(), ["pythia-70m", "--toml"]).stdout)
    with capture_logs() as lines:
        served = build_model(str(file), settings(scale="tiny", cache_tokens=512), PrometheusObserver())
    (told,) = (line for line in lines if line["event"] == "made small")
    assert (told["model"], told["scale"]) == (str(file), "tiny")
    assert told["parameters"] == served.card.total_parameters < told["of"] == 70_426_624


def test_the_machine_is_not_measured_beside_other_models_but_what_is_known_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(limits, "read_rate", lambda size, budget: 1e10)
    monkeypatch.setattr(limits, "matrix_rate", lambda dtype, shapes, budget: 1e12)
    wanted = settings(scale="tiny", cache_tokens=512, measure_machine=True)
    assert build_model("gpt2", wanted, PrometheusObserver(), measures=False).roofs is None
    known = build_model("gpt2", wanted, PrometheusObserver()).roofs
    assert known is not None and known.bandwidth == 1e10
    assert build_model("gpt2", wanted, PrometheusObserver(), measures=False).roofs == known
    unwanted = settings(scale="tiny", cache_tokens=512)
    assert build_model("gpt2", unwanted, PrometheusObserver(), measures=False).roofs is None


def test_a_model_without_attention_is_refused(tmp_path: Path) -> None:
    branches = '[{type = "feed_forward", hidden = 8}]'
    file = tmp_path / "flat.toml"
    file.write_text(f"vocab = 300\nwidth = 16\ncontext = 64\nlayers = ['a*2']\nblocks.a.branches = {branches}")
    with pytest.raises(ConfigError, match=r"^model 'flat': none of its blocks has an attention"):
        build_model(str(file), settings(), PrometheusObserver())


def test_random_weights_have_to_fit_into_what_a_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text(str(machine._held() + 100_000_000))
    with pytest.raises(TooLarge, match=r"^model 'pythia-70m': 0\.3 GB of weights, there is memory for 0\.\d GB; "):
        build_model("pythia-70m", settings(), PrometheusObserver())


def test_states_that_do_not_fit_are_told_before_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the same whatever the tokens of the cache: 64 rows hold two each, and one while they go on."""
    monkeypatch.setattr(machine, "room", lambda: 20 << 20)
    name = "nemotron-3-nano-30b-a3b"
    with pytest.raises(TooLarge, match=r"GB for the states of requests, there is memory for 0\.0 GB; lower --max-rows"):
        build_model(name, settings(scale="tiny", cache_tokens=4096, max_rows=64), PrometheusObserver())
    few = settings(scale="tiny", cache_tokens=4096, max_rows=4)
    assert build_model(name, few, PrometheusObserver()).architecture.recurrents


@pytest.mark.parametrize("vocab", [33, 256])
def test_a_checkpoint_too_small_for_bytes_needs_a_tokenizer(vocab: int, tmp_path: Path) -> None:
    model = random_model(Architecture(vocab, 16, 8, (Block((FeedForward(8),)),)), 0)
    native.save(tmp_path / "small", model, {}, torch.float32)
    with pytest.raises(
        CheckpointError, match=rf"^small has no tokenizer: vocab={vocab} is too small, bytes .* need 257"
    ):
        build_model(str(tmp_path / "small"), settings(), PrometheusObserver())
