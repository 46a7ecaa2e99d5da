"""Bits per byte have an interval over passages, against the first architecture on the same ones."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from math import log
from pathlib import Path

import orjson
import pytest

from client.compare.judge.bits import apart, stretches
from client.compare.judge.findings import conclude
from client.compare.judge.words import Verdict
from client.compare.measure import scoring
from client.compare.measure.bench import measure
from client.compare.measure.quality import Band, Quality, Scored, beginnings, bits_per_byte, quality_from_json
from client.compare.measure.results import Results
from client.compare.tell.against import judge
from client.compare.tell.brief import besides, notes
from client.compare.tell.document import document, read
from client.compare.tell.figures import figures
from client.compare.tell.tables import models_grid
from client.compare.tell.tidy import numbers
from client.load.prompts import passages
from tests.client.compare.factories import results
from tests.client.compare.test_bench import on
from tests.client.compare.test_document import kept, made
from tests.client.fake_server import FakeServer


def texts(*bits: float, size: int = 100) -> tuple[Scored, ...]:
    """Each of so many bits per byte."""
    return tuple(Scored(-one * size * log(2), size) for one in bits)


def quality(*bits: float) -> Quality:
    each = texts(*bits)
    return Quality(bits_per_byte(each), sum(one.bytes for one in each), len(each), (), each)


def worded(*bits: float) -> Quality:
    """Tokens of 3 bytes."""
    whole = quality(*bits)
    return replace(whole, each=tuple(replace(one, tokens=one.bytes // 3) for one in whole.each))


HARD = (1.0, 2.0, 3.0, 1.5)
WORSE = tuple(bits + more for bits, more in zip(HARD, (0.01, 0.02, 0.03, 0.02), strict=True))
ELSEWHERE = tuple(bits + more for bits, more in zip(HARD, (0.3, -0.2, -0.1, 0.2), strict=True))


def test_how_hard_a_text_is_cancels_out() -> None:
    found = apart(texts(*HARD), texts(*WORSE))
    assert found is not None and found.texts == 4
    reach = 3.182446 * 0.00816497 / 4**0.5  # Student's t with three degrees of freedom
    assert (found.difference, found.interval.low, found.interval.high) == pytest.approx(
        (0.02, 0.02 - reach, 0.02 + reach), rel=1e-5
    )
    assert found.verdict == "worse"
    back = apart(texts(*WORSE), texts(*HARD))
    assert back is not None and back.verdict == "better"
    unsure = apart(texts(*HARD), texts(*ELSEWHERE))
    assert unsure is not None and unsure.difference > 0.02 and unsure.verdict == Verdict.NOT_SHOWN
    assert unsure.said == "no difference shown"
    assert replace(found, adjusted=0.2).said == "no difference shown (p 0.2 after correction)"


def test_a_text_counts_by_its_bytes() -> None:
    """The difference is that of the numbers as they are printed, also where models cut off different first tokens."""
    one = texts(1.0) + texts(2.0, size=300) + texts(1.5, size=50)
    two = texts(1.1, size=99) + texts(2.1, size=298) + texts(1.4, size=50)
    found = apart(one, two)
    assert found is not None
    assert found.difference == pytest.approx(bits_per_byte(two) - bits_per_byte(one))
    assert (found.interval.low + found.interval.high) / 2 == pytest.approx(found.difference)


@pytest.mark.parametrize(("length", "count"), [(512, 16), (1024, 16), (4096, 4), (1_000_000, 1)])
def test_no_long_text_is_part_of_another(length: int, count: int) -> None:
    """Of the shortest tokens that words can come to: one each."""
    found, words = beginnings(length), [text.split() for text in passages()]
    assert len(found) == count and found[0] == 0
    for one, another in pairwise([*found, len(words)]):
        assert sum(len(some) + 1 for some in words[one:another]) >= length or count == 1


def test_a_model_is_as_good_as_itself_and_one_text_says_nothing() -> None:
    found = apart(texts(*HARD), texts(*HARD))
    assert found is not None and (found.difference, found.probability, found.verdict) == (0.0, 1.0, Verdict.NOT_SHOWN)
    assert apart(texts(1.0), texts(1.1)) is None
    assert apart((), texts(*HARD)) is None


def test_every_comparison_of_the_report_is_corrected_for() -> None:
    whole, far = quality(*HARD), Band(1, 64, 1.5, texts(*HARD))
    other = Quality(2.0, 400, 4, (Band(1, 64, 1.6, texts(*WORSE)),), texts(*WORSE))
    first = Quality(whole.bits_per_byte, whole.bytes, 4, (far,), whole.each)
    told = stretches((first, other, other))
    assert [one.name for one in told] == ["held text", "tokens 1 to 64"]
    alone = apart(texts(*HARD), texts(*WORSE))
    assert alone is not None
    for one in told:
        assert one.apart[0] is None
        assert [found.adjusted for found in one.apart[1:] if found] == [pytest.approx(4 * alone.probability)] * 2


def judged(*qualities: Quality | None) -> Results:
    whole = results((0.1,) * len(qualities))
    whole.qualities = qualities
    return whole


def test_the_interval_is_told_wherever_the_number_is() -> None:
    whole = judged(quality(*HARD), quality(*WORSE), quality(*ELSEWHERE))
    findings, said = conclude(whole), "+0.0200 [0.0070, 0.0330], worse"
    rows = {row[0]: row[1:] for row in models_grid(findings).rows}
    assert rows["bits per byte, held text"] == ("1.8750", "1.8950", "1.9250")
    assert rows["against arch0, on the same texts"] == ("–", "+0.0200 [0.0070, 0.0330]", "+0.0500 [-0.3288, 0.4288]")
    assert rows["verdict"] == ("–", "worse", Verdict.NOT_SHOWN)
    assert any(
        line.startswith(f"Bits per byte on held text against arch0: arch1 {said}; arch2") for line in besides(findings)
    )
    [drawn] = [one for one in figures(findings) if one.title == "Bits per byte"]
    assert f"arch1: 1.8950 bits per byte; against arch0 {said}" in drawn.svg
    assert drawn.svg.count('class="hollow"') == 1 and drawn.svg.count('class="whisker"') == 2
    [line] = [one for one in numbers(findings) if one.metric == "bits per byte" and one.verdict == "worse"]
    assert (line.architecture, line.statistic, line.against) == ("arch1", "difference, held text", "arch0")
    [told] = orjson.loads(orjson.dumps(document(findings)))["quality_differences"]
    assert [one and one["verdict"] for one in told["architectures"]] == [None, "worse", Verdict.NOT_SHOWN]


def test_a_verdict_is_on_checkpoints() -> None:
    [said] = notes(conclude(judged(quality(*HARD), quality(*WORSE), quality(*WORSE))))
    assert said.startswith("bits per byte are of these checkpoints") and "another training seed" in said
    assert notes(conclude(judged(quality(*HARD), None))) == ()
    forms = judged(quality(*HARD), quality(*WORSE))
    one = tuple(replace(architecture, model="one") for architecture in forms.experiment.architectures)
    forms.experiment = replace(forms.experiment, architectures=one)
    assert notes(conclude(forms)) == (), "one checkpoint in two forms"


def test_random_weights_have_numbers_but_no_verdict() -> None:
    """Of a vocabulary of 64 with tokens of three bytes two bits per byte are chance."""
    random, fewer = worded(2.0, 2.1, 2.0, 2.1), worded(1.96, 2.05, 1.97, 2.06)
    chance = (
        "no better than chance at held text (random weights?): these bits per byte say nothing, and have no verdict"
    )
    for whole in (judged(random, fewer), judged(quality(*HARD), fewer), judged(random, quality(*HARD))):
        findings = conclude(whole)
        assert [one.apart for one in findings.stretches] == [(None, None)]
        assert not [row for row in models_grid(findings).rows if row[0] == "verdict"]
        assert not [line for line in besides(findings) if " against arch0" in line or "dominates" in line]
        assert any(line.startswith("Bits per byte on held text, less is better") for line in besides(findings))
    assert notes(conclude(judged(random, fewer))) == (f"every architecture: {chance}",)
    assert notes(conclude(judged(quality(*HARD), fewer))) == (f"arch1: {chance}",)
    findings = conclude(judged(quality(*HARD), fewer, quality(*WORSE)))
    [row] = [row for row in models_grid(findings).rows if row[0] == "verdict"]
    assert row[1:] == ("–", "–", "worse")
    [told] = stretches((quality(*HARD), quality(*WORSE)))
    assert findings.stretches[0].apart[2] == told.apart[1], "corrected for nothing but what is asked"


def test_older_results_without_passages_are_read(tmp_path: Path) -> None:
    old = {"bits_per_byte": 1.5, "bytes": 100, "passages": 12, "bands": [{"start": 1, "stop": 9, "bits_per_byte": 2.0}]}
    assert quality_from_json(old) == Quality(1.5, 100, 12, (Band(1, 9, 2.0),))
    assert quality_from_json(asdict(quality(*HARD))) == quality(*HARD)
    whole = made()
    whole.qualities = (quality_from_json(old), quality(*HARD))
    again = read(kept(whole, tmp_path))
    assert again.qualities == whole.qualities
    assert "against" not in " ".join(besides(conclude(again)))


def gate(then: Quality, now: Quality) -> tuple[bool, tuple[str, ...]]:
    """Whether it fails, and what it cannot judge, of the same times."""
    found = judge(judged(then, then), judged(then, now))
    return found.failed, found.unjudged


def test_the_gate_asks_whether_the_passages_show_it() -> None:
    assert gate(quality(*HARD), quality(*WORSE)) == (True, ())
    failed, unjudged = gate(quality(*HARD), quality(*ELSEWHERE))
    assert not failed
    assert unjudged == ("arch1: 2.7% more bits per byte, which 4 passages do not show to be so elsewhere",)
    assert gate(quality(*HARD), quality(*(1.001 * bits for bits in HARD))) == (False, ())  # shown, and borne


def test_the_gate_compares_the_same_passages() -> None:
    """Results of an older version are of fewer passages, not told apart; the others may be harder."""
    more = quality(*HARD, 4.0, 5.0)
    assert gate(Quality(1.875, 400, 4), more) == (False, ())
    assert gate(Quality(1.8, 400, 4), more) == (True, ())
    assert gate(quality(*HARD), more) == (False, ())


async def test_what_is_scored_is_in_no_cache_while_times_are_taken(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    async def scored(target: str, model: str, places: object, bounds: object) -> Quality:
        sent.append(len(fake.seen))
        return quality(*HARD)

    monkeypatch.setattr(scoring, "quality", scored)
    whole = await measure(on(fake, "a", "b", repeats=1, quality=()))
    assert sent == [len(fake.seen)] * 2
    assert whole.qualities == (quality(*HARD),) * 2
