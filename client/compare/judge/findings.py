"""What follows from the results of a comparison, worked out once. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from client.compare.judge.because import Split, split
from client.compare.judge.bits import Stretch, stretches, unknowing
from client.compare.judge.bootstrap import DRAWS, Floats, Interval
from client.compare.judge.drift import Drift, drift
from client.compare.judge.paired import METRICS, Difference, compare, corrected, pair
from client.compare.judge.percentiles import percentile_interval
from client.compare.judge.whole import over_runs
from client.compare.judge.worth import Worth, worths
from client.compare.measure.accounts import Account, together
from client.compare.measure.results import Place, Results
from client.load.record import Record, Run
from client.load.statistics import Summary, gaps, summarise

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Percentile:
    """A quantile of all rounds together, with its 95 % interval over rounds."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Findings:
    """What follows from results, worked out once."""

    results: Results
    summaries: dict[Place, Summary]
    differences: dict[Place, tuple[Difference, ...]]  # against the baseline, one for each thing compared
    percentiles: dict[Place, dict[str, tuple[Percentile, ...]]]  # by metric, one for each of QUANTILES
    drifts: dict[Place, Drift]
    accounts: dict[Place, Account | None]
    because: dict[Place, Split | None]  # of what the difference end to end is made; None where servers do not tell
    stretches: tuple[Stretch, ...]  # of held text
    worths: tuple[Worth, ...]  # quality for cost

    def against_baseline(self, level: int) -> list[tuple[str, Difference]]:
        """Every difference at one level, with the name of the architecture that differs."""
        others = list(enumerate(self.results.experiment.architectures))[1:]
        return [(other.name, one) for i, other in others for one in self.differences[i, level]]


def conclude(results: Results) -> Findings:
    """Every summary, and every architecture against the first."""
    experiment = results.experiment
    grid = [(a, level) for level in range(len(experiment.levels)) for a in range(len(experiment.architectures))]
    found = {place: _differences(results, *place) for place in grid if place[0] > 0}
    differences, texts = _corrected(found, experiment.control), stretches(results.qualities, unknowing(results))
    return Findings(
        results,
        summaries={place: _summary(results, *place) for place in grid},
        differences=differences,
        percentiles={place: _percentiles(results, *place) for place in grid},
        drifts={place: drift(_rounds(results, *place)) for place in grid},
        accounts={place: together(m.account for m in results.of(*place)) for place in grid},
        because={place: _because(results, *place, some) for place, some in differences.items()},
        stretches=texts,
        worths=worths(results, texts, differences),
    )


def _corrected(found: dict[Place, tuple[Difference, ...]], control: int | None) -> dict[Place, tuple[Difference, ...]]:
    """Every comparison of the report counts in the correction of its kind; those of the control, which nobody asks
    about, among themselves."""
    told: dict[Place, tuple[Difference, ...]] = {}
    for controls in (False, True):
        family = {place: some for place, some in found.items() if (place[0] == control) == controls}
        each = iter(corrected([one for some in family.values() for one in some]))
        told |= {place: tuple(next(each) for _ in some) for place, some in family.items()}
    return told


def _summary(results: Results, architecture: int, level: int) -> Summary:
    """What one architecture did at one level, all rounds taken together."""
    runs = [m.run for m in results.of(architecture, level)]
    records = [record for run in runs for record in run.records]
    return summarise(records, sum(run.seconds for run in runs), results.experiment.objective)


def _differences(results: Results, architecture: int, level: int) -> tuple[Difference, ...]:
    return differences_of(_pairs(results, architecture, level), results.experiment.seed)


def _because(results: Results, architecture: int, level: int, found: Sequence[Difference]) -> Split | None:
    """What a difference end to end is made of; None where servers do not tell, or where there is no verdict: requests
    that are left are no fair sample."""
    return None if any(one.too_lossy for one in found) else split(_pairs(results, architecture, level))


def _pairs(results: Results, architecture: int, level: int) -> list[tuple[Run, Run]]:
    """Both runs of every round that both have, (baseline, other)."""
    sides = [{m.cell.repeat: m.run for m in results.of(i, level)} for i in (0, architecture)]
    return [(sides[0][r], sides[1][r]) for r in sorted(sides[0].keys() & sides[1].keys())]


def differences_of(pairs: Sequence[tuple[Run, Run]], seed: int, draws: int = DRAWS) -> tuple[Difference, ...]:
    """Everything that is compared of rounds, each (baseline, other): times request by request, then whole rounds."""
    rounds = {metric: [pair(metric, one.records, two.records) for one, two in pairs] for metric in METRICS}
    requests = tuple(compare(metric, some, seed, draws) for metric, some in rounds.items())
    return (*requests, *over_runs(pairs))


def _rounds(results: Results, architecture: int, level: int) -> list[Sequence[Record]]:
    return [m.run.records for m in results.of(architecture, level)]


def values_of(metric: str, records: Sequence[Record]) -> list[float]:
    """The values of a metric, one for each answered request; for `inter_token`, every gap of all of them."""
    good = [r for r in records if r.ok]
    if metric == "inter_token":
        return [gap for r in good for gap in gaps(r)]
    return [v for r in good if (v := METRICS[metric](r)) is not None]


def _percentiles(results: Results, architecture: int, level: int) -> dict[str, tuple[Percentile, ...]]:
    rounds = _rounds(results, architecture, level)
    return {
        metric: _intervals([np.array(values_of(metric, records)) for records in rounds])
        for metric in ("first_token", "inter_token", "per_token", "total")
    }


def _intervals(rounds: list[Floats]) -> tuple[Percentile, ...]:
    kept = [one for one in rounds if len(one)]
    if not kept:
        return tuple(Percentile(nan, Interval(nan, nan)) for _ in QUANTILES)
    whole = np.concatenate(kept)
    return tuple(Percentile(float(np.quantile(whole, q)), percentile_interval(kept, q)) for q in QUANTILES)
