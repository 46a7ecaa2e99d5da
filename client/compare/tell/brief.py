"""What a report says first besides times: throughput, memory, quality, failures, a sentence each; and its notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan

from client.compare.judge.bits import Stretch
from client.compare.judge.findings import Findings
from client.compare.judge.losses import of_places
from client.compare.judge.predicted import peak_bytes
from client.compare.judge.worth import in_words
from client.compare.measure.results import Results
from client.compare.tell.cautions import cautions
from client.compare.tell.control import distrust
from client.load.arrivals import Closed
from client.load.statistics import Summary
from client.units import counted, plain

_LISTED = 4  # architectures; of more, only the least and the most are told


def besides(findings: Findings) -> tuple[str, ...]:
    """The sentences that stand beside the verdicts: those that there is data for."""
    results, levels = findings.results, findings.results.experiment.levels
    # In an open loop it is what was offered that was generated.
    closed = [level for level, arrivals in enumerate(levels) if isinstance(arrivals, Closed)]
    throughput = _best(findings, closed, lambda s: s.output_rate)
    goodput = _best(findings, range(len(levels)), lambda s: s.goodput) if results.experiment.objective.asks else []
    said = (
        ("Generated tokens a second at best", _told(results, throughput, plain)),
        ("Requests a second within the objective at best", _told(results, goodput, plain)),
        ("Cache bytes of a request at its peak", _told(results, _held(results), _counted)),
        ("Tokens that the cache holds", _told(results, [n or nan for n in results.capacities], _counted)),
        *_qualities(findings),
    )
    told = (f"{what}: {told}." for what, told in said if told)
    return (*told, *in_words(findings.worths, results), *_failures(findings))


def _best(findings: Findings, levels: Sequence[int], read: Callable[[Summary], float]) -> list[float]:
    """The most of each architecture at any of these loads; NaN where nothing was measured."""
    places = range(len(findings.results.names))
    measured = [[s for level in levels if (s := findings.summaries[i, level]).requests] for i in places]
    return [max(map(read, some), default=nan) for some in measured]


def _held(results: Results) -> list[float]:
    return [peak_bytes(results, i) or nan for i in range(len(results.names))]


def _qualities(findings: Findings) -> list[tuple[str, str]]:
    """Bits per byte over whole passages; and where texts have gone on for longest, if that was asked for."""
    whole, *bands = findings.stretches or (None,)
    said = _bits(findings.results, "on held text", whole) if whole else []
    return said + (_bits(findings.results, f"of {bands[-1].name} of long texts", bands[-1]) if bands else [])


def _bits(results: Results, where: str, one: Stretch) -> list[tuple[str, str]]:
    """The numbers, and the differences where texts were kept apart."""
    values = [nan if judged is None else judged.bits_per_byte for judged in one.judged]
    apart = [f"{name} {found}, {found.said}" for name, found in zip(results.names, one.apart, strict=False) if found]
    return [
        (f"Bits per byte {where}, less is better", _told(results, values, "{:.4f}".format)),
        (f"Bits per byte {where} against {results.names[0]}", "; ".join(apart)),
    ]


def _counted(value: float) -> str:
    return counted(round(value))


def _told(results: Results, values: Sequence[float], write: Callable[[float], str]) -> str:
    """ "a 1.5, b 2.0", "1.5 each", or of many "from 1.5 (a) to 9.0 (f)"; "" where nobody told a number."""
    told = [(values[i], name) for i, name in results.asked.items() if i < len(values)]
    known = [(value, name) for value, name in told if value == value]
    if not known:
        return ""
    if len(known) == len(results.asked) and len({write(value) for value, _ in known}) == 1:
        return f"{write(known[0][0])} each"
    if len(known) <= _LISTED:
        return ", ".join(f"{name} {write(value)}" for value, name in known)
    (least, first), (most, last) = min(known), max(known)
    return f"from {write(least)} ({first}) to {write(most)} ({last})"


def _failures(findings: Findings) -> tuple[str, ...]:
    """That no request failed, where that is so: those that did are told before all else, load by load."""
    told = findings.summaries.values()
    none = any(one.requests for one in told) and not any(one.errors for one in told)
    return ("No request failed.",) if none else ()


def notes(findings: Findings) -> tuple[str, ...]:
    """The cautions but those that stand in short; one that is the same of several architectures is said once, with
    their names."""
    known = findings.results.names
    said = {*of_places(findings.results), *distrust(findings)}
    of: dict[str, list[str]] = {}
    for caution in (one for one in cautions(findings) if one not in said):
        name = max((one for one in known if caution.startswith(f"{one}: ")), key=len, default="")
        of.setdefault(caution.removeprefix(f"{name}: "), []).extend([name] if name else [])
    return tuple(_of_all(caution, some, len(known)) for caution, some in of.items())


def _of_all(caution: str, some: list[str], count: int) -> str:
    if not some:
        return caution
    return f"{'every architecture' if len(some) == count else ', '.join(some)}: {caution}"
