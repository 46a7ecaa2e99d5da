"""What a reader must know before believing a comparison. Pure."""

from __future__ import annotations

from client.compare import losses
from client.compare.experiment import SURE_ROUNDS
from client.compare.results import Findings, Results
from client.load.arrivals import describe
from client.load.judgement import warnings


def cautions(findings: Findings) -> tuple[str, ...]:
    """What a reader must know before believing the numbers, each said once."""
    results = findings.results
    names = [architecture.name for architecture in results.experiment.architectures]
    said = list(losses.of_places(results))
    if results.gone:
        said.insert(0, f"ended early: {results.gone}; what was measured until then is here")
    said += [f"{names[m.cell.architecture]}: {w}" for m in results.measured for w in warnings(m.run)]
    said += [f"{names[t.architecture]} at {t.rate:.3g}/s, searching: {w}" for t in results.tried for w in t.warnings]
    if results.interrupted:
        said.append("the comparison was stopped early: some cells are missing or shorter than planned")
    if results.experiment.repeats < SURE_ROUNDS:
        said.append(f"{results.experiment.repeats} rounds: a verdict needs {SURE_ROUNDS}, with fewer it only leans")
    noisy = {place: one.spread for place, one in findings.drifts.items() if one.noisy}
    if noisy:
        worst = [f"{names[i]} {spread:.2g} times at {_load(results, level)}" for (i, level), spread in noisy.items()]
        said.append(
            "too noisy: the slowest round of an architecture took longer than its fastest by more than their requests "
            f"explain, so the machine was not quiet: {'; '.join(worst)}"
        )
    return tuple(dict.fromkeys(said))


def _load(results: Results, level: int) -> str:
    return describe(results.experiment.levels[level])
