"""The files that an experiment names, read from beside it or from what a report kept of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Files:
    """`kept` has the texts, `kept_hashes` what is known of those too long to keep; both by name. Where a file is in
    either, it need not be there any more. What was read is in `texts` and `hashes`."""

    folder: Path = Path()
    kept: Mapping[str, str] = field(default_factory=dict)
    kept_hashes: Mapping[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.kept or (self.folder / name).is_file()

    def text(self, name: str) -> str:
        """Read a file that a report is to keep whole. Raises OSError, and ValueError where it is no text."""
        self.texts[name] = self.kept[name] if name in self.kept else (self.folder / name).read_text()
        self.hashes[name] = hashlib.sha256(self.texts[name].encode()).hexdigest()
        return self.texts[name]

    def note(self, name: str) -> Path:
        """Keep the hash of a file that somebody else reads, and return its path. Raises OSError."""
        path = self.folder / name
        self.hashes[name] = self.kept_hashes.get(name) or hashlib.sha256(path.read_bytes()).hexdigest()
        return path
