"""What a reader must know before believing a comparison. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from client.compare.judge import losses
from client.compare.judge.bits import unknowing
from client.compare.judge.findings import Findings
from client.compare.judge.settling import LEAST_SECONDS, one_burst, shortest, start
from client.compare.measure.results import Results
from client.compare.measure.searching import unsteady
from client.compare.plan.schedule import SURE_ROUNDS
from client.compare.tell.control import distrust
from client.load.judgement import Flaw, flaws
from client.load.workload import Prompts
from client.units import milliseconds, percent, plain, several

_CACHED_APART = 0.05  # of the prompt tokens, between architectures
_CACHED_BY_CHANCE = 0.1


def cautions(findings: Findings) -> tuple[str, ...]:
    """What a reader must know before believing the numbers, each said once."""
    results = findings.results
    names = results.names
    said = list(losses.of_places(results))
    if results.gone:
        said.insert(0, f"ended early: {results.gone}; what was measured until then is here")
    said += distrust(findings)
    said += _flawed(results) + _searching(results)
    said += _cached(findings) + _short(results) + _unsettled(results) + _judged(results)
    if results.interrupted:
        said.append("the comparison was stopped early: some cells are missing or shorter than planned")
    if results.resumed:
        said.append(f"resumed: {results.resumed} of {len(results.measured)} cells were measured in an earlier run")
    if results.experiment.repeats < SURE_ROUNDS:
        rounds = several(results.experiment.repeats, "round")
        said.append(f"{rounds}: a verdict needs {SURE_ROUNDS}, with fewer it only leans")
    noisy = {place: one.spread for place, one in findings.drifts.items() if one.noisy}
    if noisy:
        worst = [f"{names[i]} {spread:.2g} times at {results.loads[level]}" for (i, level), spread in noisy.items()]
        said.append(
            "too noisy: the slowest round of an architecture took longer than its fastest by more than their requests "
            f"explain, so the machine was not quiet: {'; '.join(worst)}"
        )
    return tuple(dict.fromkeys(said))


def _flawed(results: Results) -> list[str]:
    """What is wrong with single runs, each flaw once: of whom, at which load, in how many rounds, and how badly."""
    places: dict[str, list[str]] = {}
    for i, name in enumerate(results.names):
        for level, load in enumerate(results.loads):
            runs = [m.run for m in results.of(i, level)]
            found: dict[str, list[Flaw]] = {}
            for flaw in (one for run in runs for one in flaws(run)):
                found.setdefault(flaw.what, []).append(flaw)
            for what, some in found.items():
                of = f"{name} at {load}, {len(some)} of {several(len(runs), 'round')}{_worst(some)}"
                places.setdefault(what, []).append(of)
    return [f"{what}: {'; '.join(some)}" for what, some in places.items()]


def _worst(some: Sequence[Flaw]) -> str:
    """The most seconds of the same flaw, if they were measured."""
    most = max(one.seconds for one in some)
    return f", {'at worst ' if len(some) > 1 else ''}{milliseconds(most)} ms (99th percentile)" if most else ""


def _searching(results: Results) -> list[str]:
    """Cautions on every search: what the client did badly, and how often; and which rates were unsteady."""
    said = []
    for i, name in enumerate(results.names):
        own = [one for one in results.tried if one.architecture == i]
        for warning, count in Counter(w for one in own for w in one.warnings).items():
            said.append(f"{name}, searching, {count} of {len(own)} times: {warning}")
        if rates := unsteady(results.tried, i):
            told = ", ".join(f"{plain(rate)}/s" for rate in rates)
            said.append(f"{name}, searching: held at one time and failed at another: {told}")
    return said


def _short(results: Results) -> list[str]:
    """Loads that are over before they are steady."""
    said = []
    for level, arrivals in enumerate(results.experiment.levels):
        load, seconds = results.loads[level], shortest([m.run for m in results.measured if m.cell.level == level])
        requests = results.experiment.requests[level]
        if one_burst(arrivals, requests):
            many = f"{requests} requests a round at {load}"
            said.append(f"{many}: fewer than four for each of them, so many are sent at once to an idle server")
        if seconds < LEAST_SECONDS:
            long = f"rounds of {plain(seconds)} s at {load}"
            said.append(f"{long}: below {LEAST_SECONDS:g} s they mostly show how a load starts and stops")
    return said


def _unsettled(results: Results) -> list[str]:
    said = []
    for i, name in enumerate(results.names):
        for level, load in enumerate(results.loads):
            factor = start([m.run.records for m in results.of(i, level)])
            if factor != 1.0:
                said.append(
                    f"{name} at {load}: a round's first tenth took {plain(factor)} times "
                    "as long as the rest, so rounds are too short to be steady"
                )
    return said


def _judged(results: Results) -> list[str]:
    """The interval over texts is of how well these weights know them, not of what training could have made. One
    checkpoint in two forms leaves nothing to say; nor does chance."""
    nothing = unknowing(results)
    chance = (
        "no better than chance at held text (random weights?): these bits per byte say nothing, and have no verdict"
    )
    said = _scored(results) + [f"{results.names[i]}: {chance}" for i in sorted(nothing)]
    asked = enumerate(zip(results.experiment.architectures, results.qualities, strict=False))
    if len({one.model or one.target for i, (one, told) in asked if told is not None and i not in nothing}) > 1:
        said.append(
            "bits per byte are of these checkpoints, not of their architectures: another training seed may move them "
            "as far"
        )
    return said


def _scored(results: Results) -> list[str]:
    """Who was not scored, and passages that were not."""
    said = [f"{name}: not scored: {why}" for name, why in zip(results.names, results.unscored, strict=False) if why]
    known = next((one for one in results.qualities if one), None)
    if known and known.left_out:
        count, all_there_are = known.passages, known.passages + len(known.left_out)
        said.append(
            f"bits per byte are of {count} of {all_there_are} passages: the others are longer than the context of one "
            "of the models"
        )
    return said


def _cached(findings: Findings) -> list[str]:
    """Prompts that were answered from a prefix cache, on one side more than on the other, or against expectation."""
    experiment, said = findings.results.experiment, []
    names = findings.results.names
    drawn = experiment.trace is None and experiment.workload.prompts is Prompts.RANDOM
    for level in range(len(experiment.levels)):
        shares = [findings.summaries[i, level].cached_share for i in range(len(names))]
        known = [share for share in shares if share == share]
        told = ", ".join(f"{name} {percent(share)}" for name, share in zip(names, shares, strict=True))
        if known and max(known) - min(known) > _CACHED_APART:
            said.append(
                f"the prefix cache held different shares of the prompts at {findings.results.loads[level]}: {told}; "
                "they did not do the same work"
            )
        elif drawn and known and max(known) > _CACHED_BY_CHANCE:
            said.append(f"random prompts were in the prefix cache at {findings.results.loads[level]}: {told}")
    return said
