"""The ready experiments say what they compare: equal where they say equal."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from client.compare.judge.settling import one_burst
from client.compare.plan import experiment as experiments
from client.compare.plan.experiment import read
from client.load.lengths import most
from model import presets
from model.codec import architecture_from_dict, load_architecture
from model.config import Architecture
from model.footprint import cache_bytes_per_token
from model.parameters import parameters
from model.zoo import names

EXAMPLES = Path(experiments.__file__).parents[1] / "examples"


def architectures(example: str) -> dict[str, Architecture]:
    return {one.name: load_architecture(Path(one.model)) for one in read(EXAMPLES / f"{example}.toml").architectures}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_model_of_an_example_exists_and_holds_its_workload(path: Path) -> None:
    experiment = read(path)
    assert path.read_text().startswith("# ")
    for one in experiment.architectures:
        folder = Path(one.model)
        if folder.suffix == ".toml" or folder.is_dir():
            made = load_architecture(folder / "architecture.json" if folder.is_dir() else folder)
            work = experiment.workload
            assert work.prompt_tokens is not None
            assert most(work.prompt_tokens) + most(work.output_tokens) <= made.context
        else:
            assert one.model in names() or one.model in presets.names()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_an_example_is_a_steady_load_and_no_burst(path: Path) -> None:
    """Requests come while others are at work, and do not all end together."""
    experiment = read(path)
    assert not any(map(one_burst, experiment.levels, experiment.requests))
    assert not isinstance(experiment.workload.output_tokens, int)


def test_what_was_trained_is_what_the_recipes_say_and_judged_beyond_it() -> None:
    experiment = read(EXAMPLES / "beyond_training.toml")
    for one in experiment.architectures:
        folder = Path(one.model)
        recipe = tomllib.loads((EXAMPLES / "recipes" / f"{folder.name}.toml").read_text())
        made = load_architecture(folder / "architecture.json")
        assert made == architecture_from_dict(recipe["architecture"])
        card = json.loads((folder / "card.json").read_text())
        assert card["recipe"]["length"] == recipe["training"]["length"] == min(experiment.quality or ())
        assert max(experiment.quality or ()) == made.context
    widths = {
        parameters(load_architecture(Path(a.model) / "architecture.json")).total for a in experiment.architectures[:2]
    }
    assert len(widths) == 1


def test_positions_differ_in_positions_alone() -> None:
    told = architectures("positions")
    heads = [[attention.heads for attention in one.attentions] for one in told.values()]
    assert all(one == heads[0] for one in heads)
    caches = {cache_bytes_per_token(one) for one in told.values()}
    parts = [parameters(one).all for one in told.values()]
    assert len(caches) == 1 and {part.total - part.positions for part in parts} == {parts[0].total}


def test_equal_is_equal() -> None:
    active = {name: parameters(a).active for name, a in architectures("experts_equal_active").items()}
    assert active["experts"] == pytest.approx(active["dense"], rel=0.01)
    total = {name: parameters(a).total for name, a in architectures("experts_equal_total").items()}
    assert total["experts"] == pytest.approx(total["dense"], rel=0.01)
    assert {a.width for a in architectures("attention_heads").values()} == {256}
    heads = {parameters(a).total for a in architectures("top_k").values()}
    assert len(heads) == 1
    counts = [parameters(a).active for a in architectures("expert_count").values()]
    assert max(counts) == pytest.approx(min(counts), rel=0.02)  # the routers differ
