"""Two results of the same experiment at different times: has anything become worse? For a gate in CI.

Rounds of the two are paired where they sent the very same trace. They were not interleaved, so a machine that was
slower on one of the days looks like a regression: the tolerance is for that. Times and throughput are judged like any
difference of a report; errors, the highest rate and quality are numbers of their own, compared as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from client.compare.judge.bits import apart
from client.compare.judge.findings import differences_of
from client.compare.judge.losses import loss
from client.compare.judge.paired import MOST_LOST, Difference, corrected
from client.compare.judge.words import SHORT_NAMES, Verdict
from client.compare.measure.quality import Quality
from client.compare.measure.results import Measured, Results
from client.compare.measure.searching import bounds, outcomes
from client.compare.plan.schedule import SURE_ROUNDS
from client.compare.tell.tables import Grid, difference_row
from client.load.arrivals import Arrivals, describe
from client.units import plain, several

TOLERANCE = 0.05
_QUALITY = 0.005  # of bits per byte: the same weights give the same, but for the order of sums


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one time of one architecture at one load."""

    architecture: str
    load: str
    difference: Difference

    def regressed(self, tolerance: float) -> bool:
        """Shown to be slower, and by more than the tolerance as far as can be told."""
        return self.difference.verdict is Verdict.SLOWER and self.difference.ratio > 1 + tolerance

    def unseen(self, tolerance: float) -> bool:
        """Whether it may be slower by more than the tolerance, and this run would not have shown it."""
        one = self.difference
        known = one.rounds >= SURE_ROUNDS and not one.too_lossy and not self.regressed(tolerance)
        return known and one.ratio_interval.high > 1 + tolerance and not one.smallest <= 1 + tolerance


@dataclass(frozen=True, slots=True)
class Check:
    """A number of which each side has one."""

    place: str
    what: str
    old: str
    new: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """All that was looked at; `unjudged` are reasons why something could not be."""

    changes: tuple[Change, ...]
    checks: tuple[Check, ...]
    unjudged: tuple[str, ...]
    tolerance: float

    @property
    def failed(self) -> bool:
        """Whether anything is worse, whatever else could not be judged."""
        return any(one.regressed(self.tolerance) for one in self.changes) or any(one.failed for one in self.checks)

    def grids(self) -> tuple[Grid, Grid]:
        """Both tables."""
        heads = ("", "time", "difference, ms", "ratio", "p, corrected", "could have seen", "verdict")
        said = f"New against old; slower by more than {self.tolerance:.0%} is a regression"
        changes = tuple(_row(one, self.tolerance) for one in self.changes)
        checks = tuple((c.place, c.what, c.old, c.new, "REGRESSION" if c.failed else "ok") for c in self.checks)
        return Grid(said, heads, changes), Grid(
            "New against old: counts", ("", "what", "old", "new", "verdict"), checks
        )


def _row(one: Change, tolerance: float) -> tuple[str, ...]:
    name, *cells, verdict = difference_row(f"{one.architecture}, {one.load}", one.difference)
    return (name, *cells, "REGRESSION" if one.regressed(tolerance) else verdict)


_Key = tuple[str, Arrivals]
_Rounds = dict[int, Measured]


def judge(old: Results, new: Results, tolerance: float = TOLERANCE) -> Gate:
    """Every architecture and load of the old results, by name; a control is there to be held against its baseline."""
    before, after = _cells(old), _cells(new)
    both = [key for key in before if key in after]
    if not both:
        said = "the two results share no architecture and load: were they of the same experiment?"
        return Gate((), (), (said,), tolerance)
    found = [(key, one) for key in both for one in _differences(before[key], after[key], new.experiment.seed)]
    judged = corrected([one for _, one in found])
    changes = tuple(Change(key[0], describe(key[1]), one) for (key, _), one in zip(found, judged, strict=True))
    checks = [_missing(key, before[key]) for key in before if key not in after]
    checks += [_errors(key, before[key], after[key]) for key in both]
    checks += [*_rates(old, new, tolerance), *_qualities(old, new)]
    unjudged = (*_unjudged(before, after, changes, tolerance), *_unsure(old, new))
    return Gate(changes, tuple(checks), unjudged, tolerance)


def _cells(results: Results) -> dict[_Key, _Rounds]:
    names = results.asked
    found: dict[_Key, _Rounds] = {}
    for m in results.measured:
        if m.cell.architecture in names:
            found.setdefault((names[m.cell.architecture], m.run.arrivals), {})[m.cell.repeat] = m
    return found


def _same(before: _Rounds, after: _Rounds) -> list[int]:
    """Rounds of the same trace."""
    return [r for r in after if r in before and after[r].run.trace_hash == before[r].run.trace_hash]


def _differences(before: _Rounds, after: _Rounds, seed: int) -> tuple[Difference, ...]:
    return differences_of([(before[r].run, after[r].run) for r in _same(before, after)], seed)


def _missing(key: _Key, before: _Rounds) -> Check:
    return Check(f"{key[0]}, {describe(key[1])}", "rounds measured", str(len(before)), "none", failed=True)


def _errors(key: _Key, before: _Rounds, after: _Rounds) -> Check:
    old, new = (loss(r for m in side.values() for r in m.run.records) for side in (before, after))
    shares = [one.failed / one.sent if one.sent else 0.0 for one in (old, new)]
    then, now = (f"{one.failed} of {one.sent}" for one in (old, new))
    return Check(f"{key[0]}, {describe(key[1])}", "failed requests", then, now, shares[1] > shares[0] + MOST_LOST)


def _rates(old: Results, new: Results, tolerance: float) -> Iterator[Check]:
    """A search ends within a tolerance of its own."""
    if not old.tried:
        return
    close = 1 + max(tolerance, old.experiment.search.tolerance if old.experiment.search else 0.0)
    places = {name: i for i, name in new.asked.items()}
    for i, name in old.asked.items():
        if name not in places:
            continue
        then = bounds(outcomes(old.tried, i))[0]
        now = bounds(outcomes(new.tried, places[name]))[0]
        yield Check(name, "highest rate, 1/s", plain(then), plain(now), failed=now * close < then)


def _qualities(old: Results, new: Results) -> Iterator[Check]:
    for name, before, after in _judged(old, new):
        worse = after is None or (_up(before, after) > _QUALITY and _shown(before, after))
        old_words, new_words = (f"{one.bits_per_byte:.4f}" if one else "none" for one in (before, after))
        yield Check(name, f"bits per byte (+{_QUALITY:.1%} is borne)", old_words, new_words, worse)


def _unsure(old: Results, new: Results) -> Iterator[str]:
    """Quality that is worse on these passages, and may not be on others."""
    for name, before, after in _judged(old, new):
        if after and (up := _up(before, after)) > _QUALITY and not _shown(before, after):
            yield f"{name}: {up:.1%} more bits per byte, which {after.passages} passages do not show to be so elsewhere"


def _judged(old: Results, new: Results) -> Iterator[tuple[str, Quality, Quality | None]]:
    """Then and now, on the passages that both were asked about; None where it is not known any more."""
    known = dict(zip(new.asked.values(), new.qualities, strict=False))
    for name, then in zip(old.asked.values(), old.qualities, strict=False):
        if then is None or name not in new.asked.values():
            continue
        now = known.get(name)
        common = set(then.places).intersection(now.places if now else then.places)
        yield name, then.among(common), now and now.among(common)


def _up(before: Quality, after: Quality) -> float:
    return after.bits_per_byte / before.bits_per_byte - 1


def _shown(before: Quality, after: Quality) -> bool:
    """Whether the passages speak for it that it is worse; without them the number as it is."""
    found = apart(before.each, after.each)
    return found is None or found.verdict is Verdict.WORSE


def _unjudged(
    before: dict[_Key, _Rounds], after: dict[_Key, _Rounds], changes: Sequence[Change], tolerance: float
) -> Iterator[str]:
    for key in before:
        place, common = f"{key[0]}, {describe(key[1])}", len(_same(before[key], after.get(key, {})))
        if key in after and not common:
            yield f"{place}: no round of the same trace on both sides"
        elif key in after and common < SURE_ROUNDS:
            yield f"{place}: {several(common, 'round')} in common, a verdict needs {SURE_ROUNDS}"
    for one in changes:
        if one.difference.too_lossy and one.difference.metric == "total":
            yield f"{one.architecture}, {one.load}: too many requests failed to judge the times of the others"
    unseen: dict[str, list[str]] = {}
    for one in changes:
        if one.unseen(tolerance):
            unseen.setdefault(f"{one.architecture}, {one.load}", []).append(SHORT_NAMES[one.difference.metric])
    for place, what in unseen.items():
        yield f"{place}: too few or too unequal rounds to show {tolerance:.0%} in {'; '.join(what)}"
