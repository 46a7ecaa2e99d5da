"""Bits per byte of several models on the same texts, against the first of them. Pure.

A text is hard for every model, so texts are paired, and what differs from text to text in the difference says how sure
it is: no text is part of another, so Student's t goes over them. Each text counts by its bytes: the difference
is that of the two numbers as they stand, and its error that of a difference of ratios, linear in each text's part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from math import log2
from typing import Any

from client.compare.judge.bootstrap import Interval
from client.compare.judge.paired import LEVEL
from client.compare.judge.ranks import holm
from client.compare.judge.student import Mean, mean
from client.compare.judge.words import Verdict, after_correction
from client.compare.measure.quality import Band, Quality, Scored, bits_per_byte
from client.compare.measure.results import Results

_KNOWS_NOTHING = 0.95  # of the bits per byte of who takes every token for as likely; random weights have no fewer


@dataclass(frozen=True, slots=True)
class Apart:
    """Other - baseline in bits per byte, below 0 where the other is better, with its 95 % interval."""

    texts: int
    difference: float
    interval: Interval
    probability: float  # of Student's t, alone
    adjusted: float = 1.0  # the same, corrected for every comparison of bits in the report

    @property
    def verdict(self) -> Verdict:
        if not (self.interval.without(0.0) and self.adjusted < 1 - LEVEL):
            return Verdict.NOT_SHOWN
        return Verdict.BETTER if self.difference < 0 else Verdict.WORSE

    @property
    def said(self) -> str:
        """The verdict, and why it is for neither where the interval alone leaves out 0."""
        uncorrected = self.verdict is Verdict.NOT_SHOWN and self.interval.without(0.0)
        return after_correction(self.adjusted) if uncorrected else self.verdict

    def __str__(self) -> str:
        """ "+0.0071 [0.0042, 0.0100]" """
        return f"{self.difference:+.4f} [{self.interval.low:.4f}, {self.interval.high:.4f}]"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some text, what each architecture came to on it, and how far each but the first is from the first; None where it
    was not judged, or not text by text, or where one of the two knows nothing."""

    name: str
    judged: tuple[Quality | Band | None, ...]
    apart: tuple[Apart | None, ...]


def _knows_nothing(quality: Quality, vocab: int) -> bool:
    """Whether its words are hardly likelier to it than any others; than any other bytes, where a server or an older
    version did not tell of tokens."""
    known = quality.tokens > 0 and vocab > 0
    even = quality.tokens * log2(vocab) / quality.bytes if known else 8.0
    return quality.bits_per_byte >= _KNOWS_NOTHING * even


def unknowing(results: Results) -> frozenset[int]:
    """The architectures that know nothing: with random weights, say. What their bits per byte are is chance."""
    judged = enumerate(zip(results.qualities, results.cards, strict=False))
    return frozenset(i for i, (one, card) in judged if one and _knows_nothing(one, card.vocab))


def stretches(qualities: Sequence[Quality | None], unknowing: Collection[int] = frozenset()) -> tuple[Stretch, ...]:
    """Whole passages, then each stretch of long texts; none where nothing was judged. Those that are `unknowing` are
    held against nobody."""
    known = next((one for one in qualities if one), None)
    if known is None:
        return ()
    found = [_stretch("held text", qualities, unknowing)]
    for i, band in enumerate(next((one.bands for one in qualities if one and one.bands), ())):
        judged = [one.bands[i] if one and one.bands else None for one in qualities]
        found.append(_stretch(f"tokens {band.start} to {band.stop}", judged, unknowing))
    each = iter(holm([one.probability for some in found for one in some.apart if one]))
    return tuple(
        replace(some, apart=tuple(one and replace(one, adjusted=next(each)) for one in some.apart)) for some in found
    )


def _stretch(name: str, judged: Sequence[Quality | Band | None], unknowing: Collection[int]) -> Stretch:
    first, *others = (one.each if one and i not in unknowing else () for i, one in enumerate(judged))
    return Stretch(name, tuple(judged), (None, *(apart(first, other) for other in others)))


def apart(baseline: Sequence[Scored], other: Sequence[Scored]) -> Apart | None:
    """How far the other is from the baseline on the texts in common, which are the first of both, not corrected for
    other comparisons; None of fewer than two."""
    count = min(len(baseline), len(other))
    if count < 2:
        return None
    difference = bits_per_byte(other[:count]) - bits_per_byte(baseline[:count])
    pairs = zip(_beyond(baseline[:count]), _beyond(other[:count]), strict=True)
    spread = mean([two - one for one, two in pairs])
    found = Mean(difference, spread.error, spread.freedom)
    return Apart(count, difference, Interval(*found.ends((1 - LEVEL) / 2)), found.probability, found.probability)


def _beyond(texts: Sequence[Scored]) -> list[float]:
    """What each text has more than all of them together, in bits per byte: it weighs by its bytes."""
    together, size = bits_per_byte(texts), sum(one.bytes for one in texts) / len(texts)
    return [(one.bits - together * one.bytes) / size for one in texts]
