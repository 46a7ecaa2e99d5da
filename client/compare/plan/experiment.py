"""An experiment as values, and the TOML file it is read from. docs/compare.md has one with every key."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.compare.plan import parts
from client.compare.plan.files import Files
from client.compare.plan.schedule import SURE_ROUNDS, Order
from client.compare.plan.section import ExperimentError, Section
from client.connect import TargetError, connect
from client.load.arrivals import Arrivals
from client.load.statistics import Objective
from client.load.warmup import enough
from client.load.workload import Workload


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: a model that gets a server of its own, or one that is served at `target` already."""

    name: str
    model: str = ""
    target: str = ""
    scale: str = ""
    flags: tuple[str, ...] = ()
    transport: str = ""  # instead of the experiment's

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
    levels: tuple[Arrivals, ...]  # each is run on every architecture in every round
    requests: tuple[int, ...]  # of a round, at each level
    repeats: int = SURE_ROUNDS
    seed: int = 0
    warmup: int = 4  # requests to each architecture that are not measured
    order: Order = Order.ROTATED
    transport: str = "rest"
    objective: Objective = field(default_factory=Objective)
    flags: tuple[str, ...] = ()
    trace: Path | None = None  # its rows, round after round, in place of drawn ones
    search: parts.Search | None = None
    quality: tuple[int, ...] | None = None  # None: not asked for; else bounds of positions, () for whole passages
    cores: tuple[int, ...] = ()
    client_cores: tuple[int, ...] = ()
    hashes: tuple[tuple[str, str], ...] = ()  # of the files it names: a trace, lengths, architectures
    texts: dict[str, str] = field(default_factory=dict, repr=False, compare=False)  # of the short ones, to be kept
    control: int | None = field(default=None, repr=False)  # the place of the baseline's second server
    source: str = field(default="", repr=False, compare=False)  # the text it was read from …
    path: str = field(default="", repr=False, compare=False)  # … and where that was

    @property
    def baseline(self) -> Architecture:
        """What the others are compared with."""
        return self.architectures[0]

    @property
    def fingerprint(self) -> str:
        """64 hex digits that any change of what is measured changes."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


def read(path: Path) -> Experiment:
    """The experiment of a file. Raises ExperimentError, also where the file is not TOML, and OSError."""
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise ExperimentError(f"there is no experiment {path}") from error
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is not TOML: {error}") from error
    return from_text(text, path)


def from_text(
    text: str, path: Path, texts: Mapping[str, str] | None = None, hashes: Mapping[str, str] | None = None
) -> Experiment:
    """The experiment that a file of this text at `path` describes; other files that it names are read beside it, but
    those of `texts`, and those of which the hash is all that is asked for. Raises ExperimentError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path} is not TOML: {error}") from error
    files = Files(path.parent, texts or {}, hashes or {})
    return replace(parse(Section(data), path.stem, files), source=text, path=str(path))


def parse(root: Section, default_name: str = "comparison", files: Files | None = None) -> Experiment:
    """The experiment of a parsed file; other files it names are among `files`. Raises ExperimentError."""
    files = files or Files()
    server, workload = root.section("server"), root.section("workload")
    trace = workload.text("trace", "")
    objective = parts.objective(root.section("objective"))
    levels = parts.levels(root.section("arrivals"), recorded=bool(trace))
    requests = parts.requests(workload, len(levels))
    control = root.truth("control")
    architectures = _architectures(root, files, again=control)
    experiment = Experiment(
        name=root.text("name", default_name),
        architectures=architectures,
        workload=parts.workload(workload, max(requests), files, drawn=not trace),
        levels=levels,
        requests=requests,
        repeats=root.whole("repeats", SURE_ROUNDS, least=1),
        seed=root.whole("seed", 0),
        warmup=root.whole("warmup", enough(levels)),
        order=Order(root.choice("order", tuple(Order), Order.ROTATED)),
        transport=root.choice("transport", ("rest", "grpc"), "rest"),
        objective=objective,
        flags=server.texts("flags"),
        trace=_trace(files, trace) if trace else None,
        search=parts.search(root.section("search"), objective) if "search" in root else None,
        quality=parts.quality(root),
        cores=server.places("cores"),
        client_cores=server.places("client_cores"),
        control=len(architectures) - 1 if control else None,
    )
    server.close()
    root.close()
    return replace(experiment, hashes=tuple(sorted(files.hashes.items())), texts=files.texts)


def _trace(files: Files, name: str) -> Path:
    try:
        return files.note(name)
    except OSError as error:
        raise ExperimentError(f"workload.trace: {error}") from error


def _architectures(root: Section, files: Files, *, again: bool) -> tuple[Architecture, ...]:
    """`again`: the first of them comes once more, as the last."""
    architectures = [_architecture(section, files) for section in root.sections("architectures")]
    if again and architectures:
        architectures.append(replace(architectures[0], name=f"{architectures[0].name} again"))
    if len(architectures) < 2:
        raise ExperimentError(f"a comparison needs at least two [[architectures]], got {len(architectures)}")
    names = [architecture.name for architecture in architectures]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ExperimentError(f"two architectures have the name {', '.join(sorted(twice))}")
    return tuple(architectures)


def _architecture(section: Section, files: Files) -> Architecture:
    model, target = section.text("model", ""), section.text("target", "")
    name = section.text("name", model or target)
    if model.endswith((".toml", ".json")) and files.has(model):
        files.text(model)
        model = str(files.folder / model)
    elif model and (files.folder / model).is_dir():
        model = str(files.folder / model)
    if not model and not target:
        raise ExperimentError(f"{section.name('model')} or {section.name('target')} must be given")
    if target:
        _check_target(section, target)
    transport = section.choice("transport", ("rest", "grpc"), "rest") if "transport" in section else ""
    scale, flags = section.word("scale"), section.texts("flags")
    architecture = Architecture(name, model, target, scale, flags, transport)
    section.close()
    return architecture


def _check_target(section: Section, target: str) -> None:
    try:
        connect(target)
    except TargetError as error:
        raise ExperimentError(f"{section.name('target')}: {error}") from error
    if given := [key for key in ("scale", "flags", "transport") if key in section]:
        raise ExperimentError(f"{section.name('target')} runs already: {' and '.join(given)} cannot be given with it")
