"""From findings to plots, each with its sentence, in the order of the report."""

from __future__ import annotations

from client.compare.judge.findings import Findings
from client.compare.tell.costs import costs, qualities
from client.compare.tell.figure import Figure
from client.compare.tell.times import distributions, ratios, reasons, rounds, throughput


def figures(findings: Findings) -> tuple[Figure, ...]:
    """Every figure that there is data for; the figures of one part stand together."""
    made = (
        *ratios(findings),
        *reasons(findings),
        *throughput(findings),
        *distributions(findings),
        *rounds(findings),
        *costs(findings),
        *qualities(findings),
    )
    return tuple(one for one in made if one.svg)
