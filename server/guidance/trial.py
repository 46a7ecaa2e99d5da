"""Compiling a grammar of a stranger, in a process of its own: `python trial.py` reads grammars and says of each whether
it can be used. One that compiles for ever or takes the memory or the stack is then no harm to the server.

Both sides build a grammar with `compiled`, under the same bounds; the server on more stack than was enough here.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

STACK_BYTES = 64 << 20
MEMORY_BYTES = 2 << 30  # of address space


class GrammarRefused(Exception):
    """The library cannot use a grammar; the message is its own."""


class Bytes:
    """A vocabulary in which every byte is a token: whether a grammar can be used does not hang on the vocabulary."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([i]) for i in range(256)), b"")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def compiled(vocabulary: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the beginning of a text. Raises GrammarRefused."""
    # With the items the time of a token grows by their square, that of taking one under the interpreter's lock.
    bounds = LLParserLimits(
        step_lexer_fuel=100_000, step_max_items=5_000, precompute_large_lexemes=False, verbose_errors=False
    )
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=bounds)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarRefused(matcher.get_error())
    return matcher


def verdict(vocabulary: LLTokenizer, grammar: str) -> str | None:
    """Why a grammar cannot be used; None when it can."""
    try:
        compiled(vocabulary, grammar)
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def serve() -> None:
    """Answer each line of JSON, a grammar, with a line of JSON, its verdict."""
    vocabulary = LLTokenizer(TokenizerWrapper(Bytes()))
    print(json.dumps(None), flush=True)  # ready
    for line in sys.stdin:
        print(json.dumps(verdict(vocabulary, json.loads(line))), flush=True)


def _bounded() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has such bounds
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _bounded()
    threading.stack_size(STACK_BYTES)
    worker = threading.Thread(target=serve)
    worker.start()
    worker.join()
