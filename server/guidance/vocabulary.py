"""Our tokenizers as the library of grammars knows them."""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from model.tokenizer import Tokenizer


class _Pieces:
    """A tokenizer that says what every id stands for. Ids without a text are special: no grammar asks for one."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, pieces: Sequence[bytes], size: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = list(pieces[:size])
        self.special_token_ids = [i for i, piece in enumerate(self.tokens) if not piece]
        self.eos_token_id = min(tokenizer.eos_ids)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def vocabulary_of(tokenizer: Tokenizer, size: int) -> LLTokenizer:
    """The first `size` ids of a tokenizer. Takes milliseconds for a small vocabulary, a second for a large one."""
    ends = sorted(i for i in tokenizer.eos_ids if i < size)
    if tokenizer.pieces is None:
        return LLTokenizer(tokenizer.definition(), eos_token=ends)
    return LLTokenizer(TokenizerWrapper(_Pieces(tokenizer, tokenizer.pieces, size)), eos_token=ends)
