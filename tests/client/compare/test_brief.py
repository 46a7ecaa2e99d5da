from __future__ import annotations

from dataclasses import replace

from client.compare.judge.findings import conclude
from client.compare.measure.quality import Band, Quality
from client.compare.measure.results import Results
from client.compare.measure.searching import Tried
from client.compare.tell.brief import besides, notes
from client.compare.tell.page import method
from client.compare.tell.verdicts import summary
from client.load.statistics import Objective
from tests.client.compare.factories import TOLD, closed, results


def peaking(made: Results, *peaks: int) -> Results:
    """Every request of an architecture held so many bytes of cache at its peak."""
    assert TOLD.cache is not None
    caches = [replace(TOLD.cache, peak_bytes=peak) for peak in peaks]
    for n, m in enumerate(made.measured):
        facts = replace(TOLD, cache=caches[m.cell.architecture])
        records = tuple(replace(r, facts=facts) for r in m.run.records)
        made.measured[n] = replace(m, run=replace(m.run, records=records))
    return made


def quiet(made: Results) -> Results:
    """Of a server that tells no more than how many tokens there were."""
    for n, m in enumerate(made.measured):
        records = tuple(replace(r, facts=replace(TOLD, cache=None)) for r in m.run.records)
        made.measured[n] = replace(m, run=replace(m.run, records=records))
    return made


def test_what_there_is_is_told_in_a_sentence_each() -> None:
    made = closed(results((0.1, 0.2)))
    made.experiment = replace(made.experiment, objective=Objective(first_token=0.15))
    made.tried = [Tried(0, 4.0, 1.0, True), Tried(0, 8.0, 0.1, False), Tried(1, 2.0, 1.0, True)]
    made = peaking(made, 4 << 20, 64 << 10)
    made.capacities = (100_000, 0)
    far = tuple((Band(1, 128, 1.5), Band(128, 512, bits)) for bits in (1.6, 2.0))
    made.qualities = (Quality(1.467, 1000, 12, far[0]), Quality(1.4793, 1000, 12, far[1]))
    assert besides(conclude(made)) == (
        "Generated tokens a second at best: 2.00 each.",
        "Requests a second within the objective at best: arch0 0.667, arch1 0.",
        "Cache bytes of a request at its peak: arch0 4.19 M, arch1 65.5 k.",
        "Tokens that the cache holds: arch0 100 k.",
        "Bits per byte on held text, less is better: arch0 1.4670, arch1 1.4793.",
        "Bits per byte of tokens 128 to 512 of long texts, less is better: arch0 1.6000, arch1 2.0000.",
        "No request failed.",
    )


def test_what_nobody_told_is_not_said() -> None:
    made = results()
    made = quiet(made)
    assert besides(conclude(made)) == ("No request failed.",), "in an open loop, tokens are as many as were offered"
    made = closed(made)
    assert besides(conclude(made)) == ("Generated tokens a second at best: 2.00 each.", "No request failed.")
    made.measured = []
    assert besides(conclude(made)) == ()


def test_of_many_the_least_and_the_most_are_told() -> None:
    made = results((0.1,) * 5)
    made.qualities = tuple(Quality(1.5 - i / 10, 1000, 12) for i in range(5))
    assert "Bits per byte on held text, less is better: from 1.1000 (arch4) to 1.5000 (arch0)." in besides(
        conclude(made)
    )


def test_failures_are_told_once_and_first() -> None:
    made = results()
    last = made.measured[-1]
    broken = tuple(replace(r, error="gone") for r in last.run.records[:3]) + last.run.records[3:]
    made.measured[-1] = replace(last, run=replace(last.run, records=broken))
    findings = conclude(made)
    [said] = [line for line in (*summary(findings), *notes(findings)) if "3 of 20 requests failed" in line]
    assert said == summary(findings)[0] == "arch1 at 2/s, Poisson: 3 of 20 requests failed (3 × 'gone')"
    assert not any("equests failed:" in line or "No request" in line for line in besides(findings))


def test_a_leaning_is_explained_once() -> None:
    said = summary(conclude(results((0.1, 0.2, 0.3), repeats=2)))
    assert said[0].startswith("arch1 against arch0: seems slower: first token 2.00 times, end to end 1.84 times")
    assert sum("only leans" in line for line in said) == 1
    assert not any("only leans" in line for line in summary(conclude(results())))


def test_one_round_is_one_round() -> None:
    [said] = notes(conclude(results(repeats=1)))
    assert said == "1 round: a verdict needs 5, with fewer it only leans"
    assert "1 round of 4 requests at each level" in method(results(repeats=1))


def late(made: Results, architectures: tuple[int, ...]) -> Results:
    """Their requests were sent a tenth of a second late."""
    for n, m in enumerate(made.measured):
        if m.cell.architecture in architectures:
            records = tuple(replace(r, sent=r.intended + 0.1) for r in m.run.records)
            made.measured[n] = replace(m, run=replace(m.run, records=records))
    return made


def test_what_is_to_be_known_of_several_is_said_once() -> None:
    [said] = notes(conclude(late(results((0.1, 0.2, 0.3)), (0, 2))))
    assert said.startswith("the client sent late (")
    assert said.endswith("): arch0 at 2/s, Poisson, 5 of 5 rounds; arch2 at 2/s, Poisson, 5 of 5 rounds")
    blind = quiet(results())
    blind.unscored = ("no scores there",) * 2
    assert notes(conclude(blind)) == ("every architecture: not scored: no scores there",)


def test_one_note_has_every_round_of_a_flaw_and_its_worst() -> None:
    """Seconds differ from round to round, and would make a note of each."""
    made = results()
    for n, m in enumerate(made.measured):
        held = 0.1 + n / 1000 if m.cell.architecture or not m.cell.repeat else 0.0
        made.measured[n] = replace(m, run=replace(m.run, held_up=held))
    assert notes(conclude(made)) == (
        "the client was held up itself, so what came meanwhile seems late: arch0 at 2/s, Poisson, 1 of 5 rounds, "
        "100 ms (99th percentile); arch1 at 2/s, Poisson, 5 of 5 rounds, at worst 109 ms (99th percentile)",
    )
