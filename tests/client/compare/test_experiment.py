from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from client.compare.judge.settling import one_burst
from client.compare.plan import experiment as experiments
from client.compare.plan.experiment import Architecture, Experiment, parse, read
from client.compare.plan.section import ExperimentError, Section
from client.load.arrivals import Closed, Constant, Gamma, Poisson
from client.load.statistics import Objective
from client.load.workload import Prompts, Workload

PAGE = Path(__file__).parents[3] / "docs" / "compare.md"
EXAMPLES = Path(experiments.__file__).parents[1] / "examples"

LEAST = """
[[architectures]]
model = "a"
[[architectures]]
name = "b at home"
model = "b"
target = "grpc://127.0.0.1:1"
[workload]
requests = 3
output_tokens = 4
[arrivals]
concurrency = [1, 2]
"""


def parsed(text: str) -> Experiment:
    return parse(Section(tomllib.loads(text)))


def test_what_is_left_out_has_a_default() -> None:
    assert parsed(LEAST) == Experiment(
        name="comparison",
        architectures=(Architecture("a", "a"), Architecture("b at home", "b", "grpc://127.0.0.1:1")),
        workload=Workload(requests=3, output_tokens=4),
        levels=(Closed(1), Closed(2)),
        requests=(3, 3),
    )


def test_each_level_may_have_its_own_number_of_requests() -> None:
    told = parsed(LEAST.replace("requests = 3", "requests = [2, 6]"))
    assert told.requests == (2, 6)
    assert told.workload.requests == 6, "what a search sends at least"


def test_quality_is_of_whole_passages_or_by_position() -> None:
    said = {"": None, "quality = false": None, "quality = true": (), "quality = [128, 512]": (128, 512)}
    assert {text: parsed(text + LEAST).quality for text in said} == said


def test_the_examples_in_the_documentation_are_some() -> None:
    short, annotated, foreign = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    told = parsed(short)
    assert [one.model for one in told.architectures] == ["local.toml", "mine.toml"]
    assert not any(map(one_burst, told.levels, told.requests)), "nothing that a report would warn of"
    tokens = [count * told.workload.output_tokens for count in told.requests]
    assert tokens[0] >= 10_000 and tokens[1] >= 30_000, "5 s at 2,000 and 6,000 tokens/s"
    told = parsed(annotated)
    assert told.workload == Workload(40, 64, Prompts.TALES, 64, 0.7, tenants=2, cancelled=0.1, cancel_after=0.5)
    assert told.levels == (Poisson(2.0), Poisson(4.0))
    assert told.objective == Objective(first_token=0.5, per_token=0.05, total=10.0)
    assert told.flags == ("--threads", "2")
    told = parsed(foreign)
    assert [one.target for one in told.architectures] == ["http://127.0.0.1:8001", ""]
    assert dict(zip(told.levels, told.requests, strict=True)) == {Closed(1): 48, Closed(8): 128}


@pytest.mark.parametrize(
    ("arrivals", "levels"),
    [
        ('kind = "constant"\nrates = [1, 2.5]', (Constant(1.0), Constant(2.5))),
        ('kind = "gamma"\nshape = 0.5\nrates = [3]', (Gamma(3.0, 0.5),)),
    ],
)
def test_every_law_of_arrivals(arrivals: str, levels: tuple[object, ...]) -> None:
    assert parsed(LEAST.replace("concurrency = [1, 2]", arrivals)).levels == levels


def test_a_server_gets_the_flags_of_its_architecture() -> None:
    told = parsed(LEAST.replace('model = "a"', 'model = "a"\nscale = 0.25\nflags = ["--threads", "1"]'))
    assert told.baseline.server_flags() == ("--model", "a", "--scale", "0.25", "--threads", "1")


MISTAKES: dict[str, tuple[str, str, str]] = {
    "one architecture": ('[[architectures]]\nmodel = "a"\n', "", "at least two [[architectures]], got 1"),
    "one name": ('name = "b at home"\n', 'name = "a"\n', "two architectures have the name a"),
    "no model": ('model = "a"\n', "", "architectures[0].model or architectures[0].target must be given"),
    "bad target": ("grpc://127.0.0.1:1", "somewhere", "architectures[1].target: target 'somewhere' is not http://"),
    "flags for others": ('model = "b"\n', 'model = "b"\nscale = 2\n', "architectures[1].target runs already"),
    "no requests": ("requests = 3\n", "", "workload.requests is missing"),
    "zero requests": ("requests = 3", "requests = 0", "workload.requests must be a whole number of at least 1, got 0"),
    "too few numbers": ("requests = 3", "requests = [3]", "workload.requests must be 2 numbers of at least 1"),
    "none at a level": ("requests = 3", "requests = [3, 0]", "one for each level of [arrivals], or one for all, got"),
    "half a token": ("output_tokens = 4", "output_tokens = 1.5", "workload.output_tokens must be a whole number"),
    "bad prompts": ("requests = 3", 'requests = 3\nprompts = "jokes"', "workload.prompts must be one of tales, random"),
    "no rates": ("concurrency = [1, 2]", 'kind = "poisson"', "arrivals.rates is missing"),
    "one rate": (
        "concurrency = [1, 2]",
        'kind = "poisson"\nrate = 4.0',
        "arrivals.rates is missing; unknown key: arrivals.rate",
    ),
    "bad rates": ("concurrency = [1, 2]", 'kind = "poisson"\nrates = [0]', "arrivals.rates must be a list of numbers"),
    "half a user": ("[1, 2]", "[1.5]", "arrivals.concurrency must be a list of whole numbers, got 1.5"),
    "no bounds": (
        "\n[[architectures]]",
        "\nquality = []\n[[architectures]]",
        "quality must be true, false or rising numbers",
    ),
    "falling bounds": (
        "\n[[architectures]]",
        "\nquality = [512, 128]\n[[architectures]]",
        "quality must be true, false or rising",
    ),
    "half a bound": (
        "\n[[architectures]]",
        "\nquality = [16.5]\n[[architectures]]",
        "quality must be a list of whole numbers",
    ),
    "no quality": ("\n[[architectures]]", "\nquality = 3\n[[architectures]]", "quality must be true or false, got 3"),
    "unknown key": ("requests = 3", "requests = 3\nspeed = 9", "unknown key: workload.speed"),
    "unknown section": ("[workload]", "[weather]\nsun = 1\n[workload]", "unknown key: weather"),
    "not a table": ("[[architectures]]", "workload = 1\n[[architectures]]", "workload must be a table, got 1"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_its_key(case: str) -> None:
    old, new, message = MISTAKES[case]
    assert old in LEAST
    data: Any = LEAST.replace(old, new, 1)
    if case == "not a table":
        data = data.partition("[workload]")[0]
    with pytest.raises(ExperimentError) as caught:
        parsed(data)
    assert message in str(caught.value)


def test_a_file_that_is_no_toml_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("name = ")
    with pytest.raises(ExperimentError, match="is not TOML"):
        read(path)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_can_be_read(path: Path) -> None:
    assert len(read(path).architectures) >= 2


def test_an_experiment_is_called_like_its_file(tmp_path: Path) -> None:
    path = tmp_path / "who_wins.toml"
    path.write_text(LEAST)
    assert read(path).name == "who_wins"
