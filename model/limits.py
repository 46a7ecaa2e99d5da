"""The two limits of this machine, measured: bytes it reads a second, and operations it multiplies matrices with.

Reading depends on how much is read: weights that stay in the processor's cache are read several times as fast. So it is
measured for a size, the next power of two. What was measured is kept on disk for this machine, its PyTorch and its
threads; `python -m model roofline` measures anew. A limit is a maximum, so that the best ever found is kept: a busy
machine reaches less. `--forget` begins anew.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model import machine
from model.kernels import packed, panels
from model.kernels.panels import Form
from model.roofline import Machine
from model.timing import repeat

log = logging.getLogger(__name__)

SMALLEST, LARGEST = 1 << 20, 1 << 30  # bytes that reading is measured with
COLUMNS = 1 << 10
Shapes = tuple[tuple[int, int, int], ...]  # rows, in, out
SHAPES = ((1024, 768, 3072), (1024, 1024, 1024), (1024, 2048, 5632), (2048, 2048, 2048))
BRIEF_SHAPES = ((512, 768, 3072),)


class Unmeasured(LookupError):
    """A limit that is not known, and is not to be measured."""


class Limits:
    """Measures a limit when it is first asked for, unless it is known from the disk."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        brief: bool = False,
        fresh: bool = False,
        forget: bool = False,
        measures: bool = True,
    ) -> None:
        """brief: measure in well under half a second, with less memory, a little less exactly. fresh: measure even what
        is known, which still counts where it is better. forget: delete what is known; OSError where that fails.
        measures False: what is not known raises Unmeasured."""
        self.brief, self._measures = brief, measures
        name = f"{machine.fingerprint()}-{torch.get_num_threads()}.json"
        self._path = (folder or machine.folder("limits")) / name
        if forget:
            self._path.unlink(missing_ok=True)
        self._known = {"read": {}, "multiply": {}} if fresh else _load(self._path)

    def bandwidth(self, size: float) -> float:
        """Bytes a second when `size` bytes are read over and over."""
        wanted = size_class(size)
        if self.brief and str(wanted) not in self._known["read"]:
            wanted = min(wanted, size_class(4 * machine.last_cache()), LARGEST // 4)
        return self._measured("read", str(wanted), lambda: read_rate(wanted, 0.1 if self.brief else 0.5))

    def rate(self, dtype: str, weights: Form = "lossless") -> float:
        """Operations a second of matrix products in this type, at the best of several sizes; for w8a8, of bytes."""
        shapes, budget = (BRIEF_SHAPES, 0.05) if self.brief else (SHAPES, 1.2)
        kind, measure = (f"w8a8 {dtype}", byte_rate) if weights == "w8a8" else (dtype, matrix_rate)
        return self._measured("multiply", kind, lambda: measure(getattr(torch, dtype), shapes, budget))

    def machine(self, size: float, dtype: str, weights: Form = "lossless") -> Machine:
        """The limits as a Machine, for a model of `size` bytes of weights in `dtype`."""
        return Machine(machine.memory(), self.bandwidth(size), self.rate(dtype, weights))

    def _measured(self, kind: str, key: str, measure: Callable[[], float]) -> float:
        if key not in self._known[kind]:
            if not self._measures:
                raise Unmeasured(f"{kind} {key}")
            self._known[kind][key] = measure()
            self._known[kind][key] = self._save()[kind][key]
        return self._known[kind][key]

    def _save(self) -> dict[str, dict[str, float]]:
        """Save the best of what is known here and on disk, and return it; the file is replaced as a whole."""
        kept = {kind: _merged(found, self._known[kind]) for kind, found in _load(self._path).items()}
        try:
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                json.dump(kept, file)
            Path(file.name).replace(self._path)
        except OSError as error:
            log.warning("the machine's limits are not kept: %s", error)
        return kept


def _merged(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {key: max(limits[key] for limits in (one, other) if key in limits) for key in one | other}


def size_class(size: float) -> int:
    """The next power of two from `size` bytes on, within what is measured and an eighth of the memory."""
    most = min(LARGEST, machine.memory() // 8)
    found = SMALLEST
    while found < size and found * 2 <= most:
        found *= 2
    return found


def readers(size: int) -> tuple[Callable[[], object], ...]:
    """Calls that each read `size` bytes once: a sum, and a product with a vector, as decoding does it."""
    table = torch.ones(size // 4 // COLUMNS, COLUMNS)
    vector = table[0].clone()
    return table.sum, lambda: table @ vector


def read_rate(size: int, budget: float) -> float:
    """Bytes a second of reading `size` bytes, the better way."""
    with torch.inference_mode():
        ways = readers(size)
        return size / min(repeat(way, budget / len(ways)).best for way in ways)


def matrix_rate(dtype: torch.dtype, shapes: Shapes, budget: float) -> float:
    """Operations a second of the best shape, with the weight as it is or laid out in any of our ways."""
    return _best(shapes, budget, functools.partial(_ways, dtype))


def byte_rate(dtype: torch.dtype, shapes: Shapes, budget: float) -> float:
    """Operations a second of the best shape, with rows of this type and weights rounded to 8 bits (w8a8)."""
    return _best(shapes, budget, lambda x, weight: [_in_panels(x.to(dtype), weight.to(dtype), "w8a8")])


def _best(shapes: Shapes, budget: float, ways: Callable[[Tensor, Tensor], list[Callable[[], object]]]) -> float:
    """Operations a second of the best shape and way, within about `budget` seconds; the first shape is always tried."""
    ends, best, each = time.perf_counter() + budget, 0.0, budget / len(shapes)
    with torch.inference_mode():
        for rows, width, out in shapes:
            if best and time.perf_counter() >= ends:
                break
            ready = ways(torch.randn(rows, width), torch.randn(out, width))
            fastest = min(repeat(way, each / len(ready), least=2).best for way in ready)
            best = max(best, 2 * rows * width * out / fastest)
    return best


def _in_panels(x: Tensor, weight: Tensor, form: Form) -> Callable[[], object]:
    laid = panels.lay_out(weight, form=form)
    return lambda: panels.linear(x, laid)


def _ways(dtype: torch.dtype, wide: Tensor, wide_weight: Tensor) -> list[Callable[[], object]]:
    x, weight = wide.to(dtype), wide_weight.to(dtype)
    ways: list[Callable[[], object]] = [lambda: F.linear(x, weight)]
    if packed.supported(dtype):
        laid = packed.lay_out(weight)
        ways.append(lambda: packed.packed_linear(x, laid, None))
    if panels.supported(weight):
        ways.append(_in_panels(x, weight, "whole"))
    return ways


def _load(path: Path) -> dict[str, dict[str, float]]:
    """The limits that a file holds; none where it is missing or not ours."""
    try:
        found = json.loads(path.read_text())
        return {kind: {str(k): float(v) for k, v in found[kind].items()} for kind in ("read", "multiply")}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {"read": {}, "multiply": {}}
