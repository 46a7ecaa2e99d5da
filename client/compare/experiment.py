"""An experiment as values, and the TOML file it is read from.

name = "dense or experts"
repeats = 5                    # rounds; under 5 a verdict is only a lean
seed = 1
transport = "rest"             # or "grpc"; for the servers that compare starts itself

[[architectures]]
name = "dense"
model = "tales-dense"          # a zoo name, a preset or a path: gets a server process of its own
[[architectures]]
name = "experts"
target = "http://127.0.0.1:8000"   # or a server that runs already, with `model` naming one of its models

[workload]
requests = 40                  # a round
prompts = "tales"              # or "random", "shared"
prompt_tokens = 64
output_tokens = 64

[arrivals]
kind = "poisson"               # or "constant", "gamma" with `shape`, "closed" with `concurrency` for `rates`
rates = [2.0, 4.0]             # requests a second

[objective]                    # what goodput asks for, in seconds; every key may be left out
first_token = 0.5
per_token = 0.05

[server]
flags = ["--threads", "2"]     # for every server that compare starts
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from client.compare.section import ExperimentError, Section
from client.connect import TargetError, connect
from client.load.arrivals import Closed, Drawn, Kind
from client.load.statistics import Objective
from client.load.workload import Prompts, Workload

SURE_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: a model that gets a server of its own, or one that is served at `target` already."""

    name: str
    model: str = ""
    target: str = ""
    scale: str = ""
    flags: tuple[str, ...] = ()

    def server_flags(self) -> tuple[str, ...]:
        """Flags of `python -m server` for this architecture alone."""
        scale = ("--scale", self.scale) if self.scale else ()
        return ("--model", self.model, *scale, *self.flags)


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is compared, under which load, how often."""

    name: str
    architectures: tuple[Architecture, ...]
    workload: Workload
    levels: tuple[Drawn, ...]  # each is run on every architecture in every round
    repeats: int = SURE_ROUNDS
    seed: int = 0
    warmup: int = 4  # requests to each architecture that are not measured
    transport: str = "rest"
    objective: Objective = field(default_factory=Objective)
    flags: tuple[str, ...] = ()

    @property
    def baseline(self) -> Architecture:
        """What the others are compared with."""
        return self.architectures[0]


def read(path: Path) -> Experiment:
    """The experiment of a file. Raises ExperimentError, also where the file is not TOML, and OSError."""
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is not TOML: {error}") from error
    return parse(Section(data), default_name=path.stem)


def parse(root: Section, default_name: str = "comparison") -> Experiment:
    """The experiment of a parsed file. Raises ExperimentError."""
    server = root.section("server")
    experiment = Experiment(
        name=root.text("name", default_name),
        architectures=_architectures(root),
        workload=_workload(root.section("workload")),
        levels=_levels(root.section("arrivals")),
        repeats=root.whole("repeats", SURE_ROUNDS, least=1),
        seed=root.whole("seed", 0),
        warmup=root.whole("warmup", 4),
        transport=root.choice("transport", ("rest", "grpc"), "rest"),
        objective=_objective(root.section("objective")),
        flags=server.texts("flags"),
    )
    server.close()
    root.close()
    return experiment


def _architectures(root: Section) -> tuple[Architecture, ...]:
    architectures = tuple(_architecture(section) for section in root.sections("architectures"))
    if len(architectures) < 2:
        raise ExperimentError(f"a comparison needs at least two [[architectures]], got {len(architectures)}")
    names = [architecture.name for architecture in architectures]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ExperimentError(f"two architectures have the name {', '.join(sorted(twice))}")
    return architectures


def _architecture(section: Section) -> Architecture:
    model, target = section.text("model", ""), section.text("target", "")
    if not model and not target:
        raise ExperimentError(f"{section.name('model')} or {section.name('target')} must be given")
    if target:
        _check_target(section, target)
    scale, flags = section.word("scale"), section.texts("flags")
    architecture = Architecture(section.text("name", model or target), model, target, scale, flags)
    section.close()
    return architecture


def _check_target(section: Section, target: str) -> None:
    try:
        connect(target)
    except TargetError as error:
        raise ExperimentError(f"{section.name('target')}: {error}") from error
    if "scale" in section or "flags" in section:
        raise ExperimentError(f"{section.name('target')} runs already: scale and flags cannot be given with it")


def _workload(section: Section) -> Workload:
    workload = Workload(
        requests=section.whole("requests", least=1),
        output_tokens=section.whole("output_tokens", least=1),
        prompts=Prompts(section.choice("prompts", tuple(Prompts), Prompts.TALES)),
        prompt_tokens=section.whole("prompt_tokens", least=1) if "prompt_tokens" in section else None,
        temperature=section.number("temperature", 0.0, above=-1e-9),
    )
    section.close()
    return workload


def _levels(section: Section) -> tuple[Drawn, ...]:
    kind = section.choice("kind", ("closed", *Kind), "closed")
    levels: tuple[Drawn, ...]
    if kind == "closed":
        levels = tuple(Closed(_whole(section, n)) for n in section.numbers("concurrency"))
    else:
        shape = section.number("shape") if kind == Kind.GAMMA else 1.0
        levels = tuple(Kind(kind).at(rate, shape) for rate in section.numbers("rates"))
    section.close()
    return levels


def _whole(section: Section, number: float) -> int:
    if number != int(number):
        raise ExperimentError(f"{section.name('concurrency')} must be a list of whole numbers, got {number:g}")
    return int(number)


def _objective(section: Section) -> Objective:
    limits = {key: section.number(key) for key in ("first_token", "per_token", "total") if key in section}
    section.close()
    return Objective(**limits)
