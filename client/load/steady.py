"""When a run settled, and whether it ever did. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.load.record import Record

_BATCH = 5
_LEAST = 40  # requests; with fewer nothing can be said


def settled_after(records: Sequence[Record]) -> int | None:
    """How many of the first requests to leave out until the rest looks alike: the rule MSER-5 (White, 1997) on the time
    end to end. None where it would have to leave out half or more: the run never settled, or there is too little of it.
    """
    values = np.array([r.total for r in sorted(records, key=lambda r: r.intended) if r.ok])
    if len(values) < _LEAST:
        return None
    batches = values[: len(values) // _BATCH * _BATCH].reshape(-1, _BATCH).mean(axis=1)
    errors = [float(batches[k:].var() / (len(batches) - k)) for k in range(len(batches) * 3 // 4)]
    best = int(np.argmin(errors))
    return best * _BATCH if best * 2 < len(batches) else None


def overloaded(records: Sequence[Record]) -> bool:
    """Whether requests waited ever longer: the last third's first tokens took twice the first third's and more than the
    spread of one third explains. In an open loop that is a rate above what the server can hold."""
    done = [r for r in sorted(records, key=lambda r: r.intended) if r.ok and r.first_token is not None]
    if len(done) < _LEAST:
        return False
    firsts = np.array([r.first_token for r in done], dtype=np.float64)
    third = len(firsts) // 3
    early, late = firsts[:third], firsts[-third:]
    return bool(np.median(late) > 2 * np.median(early) and np.quantile(late, 0.25) > np.quantile(early, 0.9))
