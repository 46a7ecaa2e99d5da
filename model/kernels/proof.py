"""Run a freshly built library of kernels before anyone relies on it: `python -m model.kernels.proof LIBRARY`.

In a process of its own, because code for units that the processor only claims to have would take the server with it.
Ends with 0 when linear layers agree with numpy. Without torch, so that it takes a fraction of a second.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np

COLUMNS, DEPTH = 160, 64
ODD, UPPER = 21, 0x44  # a column of 1,024, and the upper byte of that in bfloat16, which has no code
ROWS = (1, 3, 6, 7, 12, 16, 17, 33, 48)


def agrees(library: ctypes.CDLL, narrow: bool, rows: int, form: str) -> bool:
    """Whether y = x Wᵀ with numbers of few bits, exact in every type, comes out to the last of them.

    w8a8: both sides are rounded to 8 bits, which changes nothing where every 32 numbers hold a 127.
    """
    rounds = form == "w8a8"
    random = np.random.default_rng(rows)
    x, weight = (random.integers(-8, 9, (n, DEPTH)).astype(np.float32) for n in (rows, COLUMNS))
    x[:, ::32] = 127 if rounds else x[:, ::32]
    if form == "lossless":
        weight[:, ODD] = 1024
    step, scales = 4 if rounds else 2 if narrow else 1, np.ones(COLUMNS, np.float32)
    panels = np.ascontiguousarray(weight.reshape(-1, 32, DEPTH // step, step).transpose(0, 2, 1, 3))
    inputs: list[np.ndarray] = [x, panels]
    if narrow:
        inputs = [(a.view(np.uint32) >> 16).astype(np.uint16) for a in inputs]
    if rounds:
        inputs[1] = (panels + 128).astype(np.uint8)
    out = np.zeros((rows, COLUMNS), np.float32)
    scaling = scales.ctypes.data if rounds else 0
    beside = packed(library, inputs[1]) if form == "lossless" else ()
    kept = (ctypes.c_int64 * 4)(*(a.ctypes.data for a in beside[1:]))
    inputs[1] = beside[0] if beside else inputs[1]
    lossless = ctypes.addressof(kept) if beside else 0
    layer = (ctypes.c_int64 * 7)(inputs[1].ctypes.data, scaling, 0, DEPTH, COLUMNS, rounds, lossless)
    pointers = (ctypes.c_void_p(a.ctypes.data) for a in (inputs[0], out))
    library.dyno_linear(int(narrow), 1, layer, ctypes.c_int64(rows), *pointers, 2)
    return bool(np.array_equal(out, x @ weight.T))


def packed(library: ctypes.CDLL, panels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Panels of bfloat16 in 12 bits, and what Lossless (native/lossless.h) points to."""
    found, units = np.unique(panels >> 8), panels.size // 128
    upper = np.resize(found[found != UPPER], 16).astype(np.uint8)
    kept, odd = np.zeros((units, 192), np.uint8), np.zeros(units, np.uint8)
    library.dyno_pack(ctypes.c_int64(units), *(ctypes.c_void_p(a.ctypes.data) for a in (panels, upper, kept, odd)), 2)
    each = odd.reshape(len(panels), -1)
    starts = np.concatenate(([0], each.sum(1).cumsum())).astype(np.int64)
    numbers = panels.reshape(units, 128)[odd.nonzero()[0]]
    return kept, upper, starts, each.nonzero()[1].astype(np.int32), numbers


def main() -> int:
    library = ctypes.CDLL(sys.argv[1])
    features = library.dyno_features()
    kinds = [narrow for bit, narrow in ((1, False), (2, True)) if features & bit]
    forms = {False: ("whole", "w8a8"), True: ("whole", "w8a8", "lossless")}
    tried = (agrees(library, narrow, rows, form) for narrow in kinds for rows in ROWS for form in forms[narrow])
    return 0 if all(tried) else 1


if __name__ == "__main__":
    sys.exit(main())
