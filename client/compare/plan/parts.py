"""The tables of an experiment's file that say what is sent: [workload], [arrivals], [objective] and [search]."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from client.compare.plan.files import Files
from client.compare.plan.section import ExperimentError, Section
from client.load.arrivals import Arrivals, Closed, Kind, Recorded
from client.load.lengths import Lengths, LogNormal, Uniform, lengths_of
from client.load.statistics import Objective
from client.load.workload import Prompts, Workload

_LEAST_SECONDS, _OBJECTIVES = 5.0, 8  # of a rate that is tried: some seconds, and some times the objective
LEAST_BOUND = 16  # tokens: fewer are a matter of chance


@dataclass(frozen=True, slots=True)
class Search:
    """A search for the highest rate of Poisson arrivals at which `share` of the requests meets the objective: between
    `low` and `high` requests a second, until the rates that hold and fail are a factor of 1 + `tolerance` apart. Each
    rate is kept up for at least `seconds`: long enough that a queue would build up and be seen."""

    low: float
    high: float
    share: float = 0.95
    tolerance: float = 0.1
    seconds: float = 5.0

    def requests(self, rate: float, least: int) -> int:
        """How many are sent at a rate."""
        return max(least, ceil(rate * self.seconds))


def quality(root: Section) -> tuple[int, ...] | None:
    """Bounds of positions, none of them for true; None where quality is not asked for. Raises ExperimentError."""
    if not root.is_list("quality"):
        return () if root.truth("quality") else None
    bounds = root.places("quality")
    if not bounds or list(bounds) != sorted(set(bounds)) or bounds[0] < LEAST_BOUND:
        raise ExperimentError(f"quality must be true, false or rising numbers from {LEAST_BOUND}, got {list(bounds)}")
    return bounds


def requests(section: Section, levels: int) -> tuple[int, ...]:
    """How many are sent in a round at each level: one number for all, or one each. Raises ExperimentError."""
    if not section.is_list("requests"):
        return (section.whole("requests", least=1),) * levels
    told = section.places("requests")
    if len(told) != levels or not all(told):
        wanted = f"{levels} numbers of at least 1, one for each level of [arrivals], or one for all"
        raise ExperimentError(f"{section.name('requests')} must be {wanted}, got {list(told)}")
    return told


def workload(section: Section, requests: int, files: Files, *, drawn: bool) -> Workload:
    """`drawn` False: the requests are those of a trace. Raises ExperimentError."""
    if not drawn:
        section.close()
        return Workload(requests, 1)
    made = Workload(
        requests=requests,
        output_tokens=_lengths(section, "output_tokens", files),
        prompts=Prompts(section.choice("prompts", tuple(Prompts), Prompts.TALES)),
        prompt_tokens=_lengths(section, "prompt_tokens", files) if "prompt_tokens" in section else None,
        temperature=section.number("temperature", 0.0, above=-1e-9),
        families=section.whole("families", 1, least=1),
        share=section.share("share", 0.75),
        tenants=section.whole("tenants", 0),
        cancelled=section.share("cancelled", 0.0),
        cancel_after=section.number("cancel_after", 1.0),
    )
    section.close()
    return made


def _lengths(section: Section, key: str, files: Files) -> Lengths:
    if not section.is_table(key):
        return section.whole(key, least=1)
    table = section.section(key)
    try:
        made = _law(table, files)
    except (ValueError, OSError) as error:
        raise ExperimentError(f"{section.name(key)}: {error}") from error
    table.close()
    return made


def _law(table: Section, files: Files) -> Lengths:
    if "uniform" in table:
        low, high = _pair(table, "uniform")
        return Uniform(int(low), int(high))
    if "log_normal" in table:
        median, sigma = _pair(table, "log_normal")
        return LogNormal(median, sigma, table.whole("most", least=1))
    name = table.text("file")
    return lengths_of(files.text(name), name)


def _pair(table: Section, key: str) -> tuple[float, float]:
    numbers = table.numbers(key)
    if len(numbers) != 2:
        raise ExperimentError(f"{table.name(key)} must be two numbers, got {len(numbers)}")
    return numbers[0], numbers[1]


def levels(section: Section, *, recorded: bool) -> tuple[Arrivals, ...]:
    """One law of arrivals for each level of load; a trace may come at its own instants. Raises ExperimentError."""
    kinds = ("closed", *Kind, *(("recorded",) if recorded else ()))
    kind = section.choice("kind", kinds, "closed")
    made: tuple[Arrivals, ...]
    if kind == "closed":
        made = tuple(Closed(_whole(section, n)) for n in section.numbers("concurrency"))
    elif kind == "recorded":
        made = (Recorded(),)
    else:
        shape = section.number("shape") if kind == Kind.GAMMA else 1.0
        until = section.number("until") if kind == Kind.RAMP else 0.0
        made = tuple(Kind(kind).at(rate, shape, until) for rate in section.numbers("rates"))
    section.close()
    return made


def _whole(section: Section, number: float) -> int:
    if number != int(number):
        raise ExperimentError(f"{section.name('concurrency')} must be a list of whole numbers, got {number:g}")
    return int(number)


def objective(section: Section) -> Objective:
    """Raises ExperimentError."""
    limits = {key: section.number(key) for key in ("first_token", "per_token", "total") if key in section}
    section.close()
    return Objective(**limits)


def search(section: Section, limits: Objective) -> Search:
    """Raises ExperimentError, also where there is no objective to search with."""
    if not limits.asks:
        raise ExperimentError("a [search] needs an [objective]: the highest rate that meets what?")
    made = Search(
        low=section.number("low"),
        high=section.number("high"),
        share=section.share("share", 0.95),
        tolerance=section.number("tolerance", 0.1),
        seconds=section.number("seconds", max(_LEAST_SECONDS, _OBJECTIVES * (limits.slowest or 0.0))),
    )
    if made.low >= made.high:
        raise ExperimentError(f"{section.name('low')} must be below high, got {made.low:g} and {made.high:g}")
    section.close()
    return made
