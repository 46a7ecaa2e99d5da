"""Training text: JSON-lines stories → one flat array of token ids, and the windows training and evaluation read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.tokenizer import Tokenizer
from model.values.base import check


def stories(path: Path) -> Iterator[str]:
    """The `text` of every line of a .jsonl or .jsonl.gz file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                text = None
            if not isinstance(text, str):
                raise ValueError(f"{path.name}: line {number} is no JSON object with a text")
            yield text


@dataclass(frozen=True, slots=True)
class Tokens:
    """Stories as ids, an end token before the first and after each; `text_bytes` is what they say in UTF-8."""

    ids: np.ndarray
    text_bytes: int

    def batch(self, seed: int, step: int, size: int, length: int) -> np.ndarray:
        """`size` random windows of length + 1 ids: the same for the same seed and step."""
        starts = np.random.default_rng((seed, step)).integers(0, len(self.ids) - length - 1, size)
        return np.stack([self.ids[start : start + length + 1] for start in starts]).astype(np.int64)

    def windows(self, length: int) -> Iterator[np.ndarray]:
        """Consecutive windows of length + 1 ids that share one id: every id but the first is predicted once."""
        for start in range(0, len(self.ids) - 1, length):
            yield self.ids[start : start + length + 1].astype(np.int64)


def check_vocab(tokens: Tokens, vocab: int) -> None:
    """Raise ConfigError unless every id of the text is below `vocab`."""
    highest = int(tokens.ids.max())
    check(highest < vocab, f"the text has the token id {highest}, the model has vocab={vocab}")


def tokenise(path: Path, tokenizer: Tokenizer) -> Tokens:
    """Tokenise a file of stories."""
    if not tokenizer.eos_ids:
        raise ValueError("the tokenizer has no end token to put between stories")
    end = min(tokenizer.eos_ids)
    ids, text_bytes = [end], 0
    for text in stories(path):
        ids += [*tokenizer.encode(text), end]
        text_bytes += len(text.encode())
    return Tokens(np.array(ids, dtype=np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32), text_bytes)
