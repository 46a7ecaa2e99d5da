"""A client that stands still for long must not have that counted as one short moment."""

from __future__ import annotations

import asyncio
import time

import pytest

from client.load.pulse import EVERY, Pulse, missed


def test_a_beat_that_came_late_stands_for_those_that_were_due_meanwhile() -> None:
    assert list(missed(0.0)) == [0.0]
    assert list(missed(EVERY / 2)) == [EVERY / 2]
    assert list(missed(3.5 * EVERY)) == pytest.approx([3.5 * EVERY, 2.5 * EVERY, 1.5 * EVERY, 0.5 * EVERY])
    assert len(list(missed(0.2 - EVERY / 2))) == 20


async def test_one_long_stall_is_a_share_of_the_time_and_not_one_beat_of_many() -> None:
    """A tenth of a second of 1.3: one beat in a hundred and twenty is beyond the 99th percentile, ten are not."""
    pulse = Pulse()
    await asyncio.sleep(1.2)
    asyncio.get_running_loop().call_soon(time.sleep, 0.1)
    await asyncio.sleep(0.05)
    pulse.stop()
    assert pulse.late > 0.05


async def test_a_client_that_comes_to_its_turn_is_not_late() -> None:
    pulse = Pulse()
    assert pulse.late == 0.0
    await asyncio.sleep(0.1)
    pulse.stop()
    assert pulse.late < 0.09
