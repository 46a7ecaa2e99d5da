"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.tokenizer import Tokenizer
from server.call import PromptTokens
from server.engine.request import TokenLogprobs


class TextPlaces:
    """Where in a text its tokens begin: the three tokens of one dash at the same place, what is held back for a stop
    string where it stands."""

    def __init__(self, tokenizer: Tokenizer, start: int = 0, after: Sequence[int] = ()) -> None:
        """`start`: the length of the text before; `after`: the ids that the tokens follow, whether their text is before
        or not: decoders take off the space of what begins a text."""
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream(after)
        self._end = start  # of the characters that are complete

    def of(self, tokens: Sequence[int]) -> list[int]:
        """Where in the text each of the next tokens begins."""
        return [self._pass(token) for token in tokens]

    def _pass(self, token: int) -> int:
        text, place = self._stream.push(token), self._end
        self._end += len(text)
        if text.startswith("�"):  # it may have shown that what was open before it is no character
            place += max(0, len(text) - len(self._tokenizer.stream_within().push(token)))
        return place


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs | None], places: Sequence[int]
) -> dict[str, Any]:
    """The parallel lists of /v1/completions. The chosen token is always among the top ones."""
    pairs = list(zip(tokens, logprobs, strict=True))
    return {
        "tokens": [tokenizer.text_of(token) for token in tokens],
        "token_logprobs": [None if logprob is None else logprob.chosen for logprob in logprobs],
        "top_logprobs": [None if logprob is None else _by_text(tokenizer, token, logprob) for token, logprob in pairs],
        "text_offset": places,
    }


def chat_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs | None]
) -> dict[str, Any]:
    """The list of objects of /v1/chat/completions."""
    content = []
    for token, logprob in zip(tokens, logprobs, strict=True):
        if logprob is not None:
            top = [_entry(tokenizer, other, value) for other, value in logprob.top]
            content.append({**_entry(tokenizer, token, logprob.chosen), "top_logprobs": top})
    return {"content": content}


def prompt_logprobs(tokenizer: Tokenizer, prompt: PromptTokens) -> list[dict[str, Any] | None] | None:
    """The list that vLLM gives: for every token, by id, its own log-probability and those of the likeliest; null for
    the first. None where none were asked for."""
    if prompt.logprobs is None:
        return None
    return [
        None if logprob is None else _by_id(tokenizer, token, logprob)
        for token, logprob in zip(prompt.tokens, prompt.logprobs, strict=True)
    ]


def _by_id(tokenizer: Tokenizer, token: int, logprob: TokenLogprobs) -> dict[str, Any]:
    ranked = [(token, logprob.chosen, logprob.rank)]
    ranked += [(other, value, rank) for rank, (other, value) in enumerate(logprob.top, 1) if other != token]
    return {
        str(other): {"logprob": value, "rank": rank, "decoded_token": tokenizer.text_of(other)}
        for other, value, rank in ranked
    }


def _by_text(tokenizer: Tokenizer, token: int, logprob: TokenLogprobs) -> dict[str, float]:
    """Log-probabilities by text. Of tokens with the same text the chosen or the likeliest goes by it, the others by
    their ids."""
    best = {tokenizer.text_of(token): logprob.chosen}
    for other, value in logprob.top:
        if other != token:
            text = tokenizer.text_of(other)
            best[f"token_id:{other}" if text in best else text] = value
    return best


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {"token": tokenizer.text_of(token), "logprob": logprob, "bytes": list(tokenizer.token_bytes(token))}
