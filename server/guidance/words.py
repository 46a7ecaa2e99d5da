"""What the library of grammars says when it gives up, in words for whoever wrote the grammar."""

from __future__ import annotations

NOTHING_FOLLOWS = "nothing that this model can say has the form"
TOO_AMBIGUOUS = "too many readings of a text are open at once: it should be less ambiguous"
TOO_INTRICATE = "its expressions are too intricate to follow"
BROKEN = "it cannot be followed"

WORDS = {  # what a message of the library has in it → what is said instead
    "NoExtension": NOTHING_FOLLOWS,
    "Too many items": TOO_AMBIGUOUS,
    "ParserTooComplex": TOO_AMBIGUOUS,
    "fuel": TOO_INTRICATE,
    "LexerTooComplex": TOO_INTRICATE,
    "lexer states": TOO_INTRICATE,
    "too many expressions": TOO_INTRICATE,
    "panic": BROKEN,
    "InternalError": BROKEN,
}


def own_words(message: str) -> str:
    """What is wrong, on one line. What the library says of a mistake in the writing is told as it is."""
    said = next((words for mark, words in WORDS.items() if mark in message), None)
    return said or " ".join(message.split("\n<")[0].split()) or BROKEN
