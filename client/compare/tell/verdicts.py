"""Verdicts in plain words: in short, and one by one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TypeAlias

from client.compare.judge import losses
from client.compare.judge.findings import Findings
from client.compare.judge.paired import Difference
from client.compare.judge.turning import turns
from client.compare.judge.words import METRIC_NAMES, SHORT_NAMES, Verdict
from client.compare.measure.searching import told
from client.compare.plan.schedule import SURE_ROUNDS
from client.compare.tell.brief import besides
from client.compare.tell.control import against_itself
from client.load.arrivals import Arrivals, amount, describe
from client.units import plain

Found: TypeAlias = dict[str, dict[int, Difference]]  # by metric, then by level


def summary(findings: Findings) -> tuple[str, ...]:
    """The report in plain words: what failed, the baseline against itself, times of each architecture but the first,
    then what else there is to compare."""
    others = [i for i in findings.results.asked if i]
    said = [line for i in others for line in (_against(findings, i), *_turns(findings, i))]
    if any(one.verdict.leans for (i, _), some in findings.differences.items() if i in others for one in some):
        said.append(f"“Seems” only leans: a verdict needs {SURE_ROUNDS} rounds.")
    if tried := findings.results.tried:
        each = "; ".join(f"{name} {told(tried, i)}" for i, name in findings.results.asked.items())
        said.append(f"Highest rate within the objective: {each}.")
    return (*losses.of_places(findings.results), *against_itself(findings), *said, *besides(findings))


def _against(findings: Findings, i: int) -> str:
    experiment, found = findings.results.experiment, _by_metric(findings, i)
    each = [one for at in found.values() for one in at.values()]
    kinds = {word: _in_words(experiment.levels, found, word) for word in Verdict if word.sure or word.leans}
    shown = "; ".join(f"{word}{text}" for word, text in kinds.items() if text)
    lossy = {level for at in found.values() for level, one in at.items() if one.too_lossy}
    failed = f"no verdict{_where(experiment.levels, sorted(lossy))}: too many requests failed" if lossy else ""
    seen = [one.smallest if one.smallest < 100 else inf for one in each if one.of_requests and one.pairs]
    nothing = Verdict.NOT_SHOWN + (f" ({_seen(max(seen))} would have shown)" if seen else "")
    noisy = {level for (side, level), one in findings.drifts.items() if side in (0, i) and one.noisy}
    where = _where(experiment.levels, sorted(noisy)) if noisy else ""
    doubt = f" The machine was too noisy{where} to rely on this." if noisy else ""
    verdict = "; ".join(filter(None, (shown, failed))) or nothing
    return f"{experiment.architectures[i].name} against {experiment.baseline.name}: {verdict}.{doubt}"


def _by_metric(findings: Findings, i: int) -> Found:
    found: Found = {metric: {} for metric in SHORT_NAMES}
    for level in range(len(findings.results.experiment.levels)):
        for one in findings.differences[i, level]:
            found[one.metric][level] = one
    return found


def _in_words(levels: Sequence[Arrivals], found: Found, verdict: Verdict) -> str:
    """ " at every load: first token 1.2 to 1.4 times", for every metric with that verdict at any load, by loads, most
    first."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for metric, at in found.items():
        ratios = {level: one.ratio for level, one in at.items() if one.verdict is verdict}
        if ratios:
            sizes = sorted(max(r, 1 / r) for r in ratios.values())
            between = " to ".join(dict.fromkeys(map(plain, (sizes[0], sizes[-1]))))
            alike.setdefault(tuple(ratios), []).append(f"{SHORT_NAMES[metric]} {between} times")
    most_first = sorted(alike.items(), key=lambda one: -len(one[0]))
    return ";".join(f"{_where(levels, shown)}: {', '.join(said)}" for shown, said in most_first)


def _where(levels: Sequence[Arrivals], shown: Sequence[int]) -> str:
    """In words, at which loads; nothing where there is only one."""
    if len(levels) == 1:
        return ""
    if len(shown) == len(levels):
        return " at every load"
    return f" at {' and '.join(_load(levels[n]) for n in shown)}"


def _load(arrivals: Arrivals) -> str:
    """A load in words, without its law, which all loads of an experiment share."""
    return describe(arrivals).partition(",")[0]


def _turns(findings: Findings, i: int) -> list[str]:
    """A sentence for each two loads between which the order turns, with all that turns there."""
    experiment = findings.results.experiment
    order = sorted(range(len(experiment.levels)), key=lambda level: amount(experiment.levels[level]))
    loads = [_load(experiment.levels[level]) for level in order]
    said: dict[tuple[Verdict, str], list[str]] = {}
    for metric, at in _by_metric(findings, i).items():
        verdicts = [at[level].verdict if level in at else Verdict.NOT_SHOWN for level in order]
        for turn in turns(verdicts):
            low = f"at {loads[turn.last]}{' and below' if turn.below else ''}"
            high = f"from {loads[turn.first]} on" if turn.above else f"at {loads[turn.first]}"
            where = f"{low}, {verdicts[turn.first]} {high}: between them the order turns."
            said.setdefault((verdicts[turn.last], where), []).append(SHORT_NAMES[metric])
    name, base = experiment.architectures[i].name, experiment.baseline.name
    return [f"{name} is {word} than {base} in {', '.join(some)} {where}" for (word, where), some in said.items()]


def sentences(findings: Findings) -> tuple[str, ...]:
    """The findings in plain words, one for each architecture, metric and level."""
    results = findings.results
    return tuple(
        _sentence(name, results.names[0], load, one)
        for level, load in enumerate(results.loads)
        for name, one in findings.against_baseline(level)
    )


def _sentence(name: str, base: str, load: str, one: Difference) -> str:
    metric = METRIC_NAMES[one.metric]
    if not one.pairs:
        kind = "request" if one.of_requests else "round"
        return f"At {load}, nothing can be said of {metric}: no {kind} has one from both {name} and {base}."
    interval = f"95 % interval {plain(one.ratio_interval.low)} to {plain(one.ratio_interval.high)}"
    evidence = f"ratio {plain(one.ratio)}, {interval}, {one.pairs} {'pairs' if one.of_requests else 'rounds'}"
    if one.verdict is Verdict.NOT_SHOWN:
        evidence += f"; {_seen(one.smallest)} would have shown"
    return f"At {load}, {metric} of {name} against {base}: {one.said} ({evidence})."


def _seen(smallest: float) -> str:
    if not smallest < 100:
        return "nothing short of a factor of 100"
    return f"one of {smallest - 1:.0%}" if smallest < 2 else f"only a factor of {plain(smallest)}"
