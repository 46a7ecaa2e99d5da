"""What one request holds of a model's cache. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from server.engine.blocks import Link


@dataclass(slots=True, eq=False)
class Holding:
    """The blocks of one request: in every group a table with one entry for each block_size positions from 0.

    With blocks of 4 and a window of 6, a request that has computed 13 tokens holds in the window group [0, 0, 7, 3]:
    position 13 sees 8 .. 13, so blocks 0 and 1 (positions 0 .. 7) were given back.
    """

    tables: list[list[int]]
    given_back: list[int]  # per group, entries at the front of its table that are 0; of states others may be, too
    links: list[Link] = field(default_factory=list)  # names of the request's full blocks, as far as they were needed
    published: int = 0  # how many of its blocks can be found by others
    awaited: bytes | None = None  # the name of a block that another request computes and this one waits for
    source: list[int] = field(default_factory=list)  # blocks of the memory that cross-attention reads
    encoded: bool = False  # whether the source is in them
    bytes: int = 0  # held now
    peak_bytes: int = 0
    _frozen: tuple[np.ndarray, ...] | None = None

    @property
    def room(self) -> int:
        """Blocks that the tables speak of, the same for every group."""
        return len(self.tables[0])

    @property
    def frozen(self) -> tuple[np.ndarray, ...]:
        """The tables as steps carry them, made anew only when one has changed."""
        if self._frozen is None:
            self._frozen = tuple(np.array(table, np.int64) for table in self.tables)
        return self._frozen

    def changed(self) -> None:
        self._frozen = None
