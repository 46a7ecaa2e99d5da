"""The baseline against itself, from a second server of it: what the machine and the luck of a process come to. Pure."""

from __future__ import annotations

from math import log

from client.compare.judge.findings import Findings
from client.compare.judge.paired import METRICS, Difference
from client.compare.judge.words import SHORT_NAMES
from client.units import plain


def against_itself(findings: Findings) -> tuple[str, ...]:
    """A sentence a load; before them, where it is so, that the measurements are not to be trusted. None without a
    control."""
    base = findings.results.experiment.baseline.name
    told = [(load, _ratios(found)) for load, found in _differences(findings)]
    return (*distrust(findings), *(f"{base} against itself at {load}: {ratios}." for load, ratios in told if ratios))


def distrust(findings: Findings) -> tuple[str, ...]:
    """Whether the verdicts' own rule tells the baseline apart from itself, in a sentence."""
    apart = [(one, load) for load, found in _differences(findings) for one in found if one.told_apart]
    if not apart:
        return ()
    one, load = max(apart, key=lambda told: abs(log(told[0].ratio)))
    base, factor = findings.results.experiment.baseline.name, plain(max(one.ratio, 1 / one.ratio))
    differs = "was told apart" if one.verdict.sure else "seems to differ"
    return (
        f"not to be trusted: {base} {differs} from itself, by a factor of up to {factor} "
        f"({SHORT_NAMES[one.metric]}, at {load}); a difference of others up to that size may be the machine's alone",
    )


def _differences(findings: Findings) -> list[tuple[str, tuple[Difference, ...]]]:
    """The differences of the control from the baseline, by load; none without a control."""
    control = findings.results.experiment.control
    if control is None:
        return []
    return [(load, findings.differences[control, level]) for level, load in enumerate(findings.results.loads)]


def _ratios(found: tuple[Difference, ...]) -> str:
    """ "first token 1.01 (0.98 to 1.04), …", of the times of requests."""
    return ", ".join(
        f"{SHORT_NAMES[one.metric]} {plain(one.ratio)} ({plain(one.ratio_interval.low)} to "
        f"{plain(one.ratio_interval.high)})"
        for one in found
        if one.metric in METRICS and one.pairs
    )
