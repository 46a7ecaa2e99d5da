"""A model that is too short for a workload is told before anything is sent."""

from __future__ import annotations

import pytest

from client.api import ModelCard
from client.connect import connect
from client.load.lengths import Uniform
from client.load.workload import Prompts, Subject, Workload, WorkloadError, fits
from tests.client.answers import CARD


@pytest.mark.parametrize(
    ("workload", "tokens"),
    [
        (Workload(1, 8, Prompts.RANDOM), 136),
        (Workload(1, 8, Prompts.SHARED), 136),
        (Workload(1, 8, Prompts.TALES), 9),
        (Workload(1, 8, Prompts.TALES, 40), 48),
        (Workload(1, Uniform(1, 16), Prompts.RANDOM, Uniform(10, 20)), 36),
    ],
)
async def test_a_prompt_without_a_length_is_as_long_as_those_that_are_sent(workload: Workload, tokens: int) -> None:
    assert workload.longest == tokens
    async with connect("http://127.0.0.1:1") as client:
        fits(workload, [Subject(client, ModelCard("m", **CARD | {"context": tokens}))])
        with pytest.raises(WorkloadError, match=f"holds {tokens - 1} tokens; the workload needs {tokens}"):
            fits(workload, [Subject(client, ModelCard("m", **CARD | {"context": tokens - 1}))])
