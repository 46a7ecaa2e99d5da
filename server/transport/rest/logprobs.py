"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.tokenizer import Tokenizer
from server.call import PromptTokens
from server.engine.step import TokenLogprobs


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs | None], offset: int
) -> dict[str, Any]:
    """The parallel lists of /v1/completions; `offset` is the length of the text before. The chosen token is always
    among the top ones; of tokens with the same text the likeliest is told."""
    texts = [tokenizer.decode([token]) for token in tokens]
    top, offsets = [], []
    for text, logprob in zip(texts, logprobs, strict=True):
        offsets.append(offset)
        offset += len(text)
        top.append(_by_text(tokenizer, text, logprob))
    chosen = [None if logprob is None else logprob.chosen for logprob in logprobs]
    return {"tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets}


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
    """vLLM's: of every token, by id, its own log-probability and those of the likeliest; null for the first."""
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
        str(other): {"logprob": value, "rank": rank, "decoded_token": tokenizer.decode([other])}
        for other, value, rank in ranked
    }


def _by_text(tokenizer: Tokenizer, chosen: str, logprob: TokenLogprobs | None) -> dict[str, float] | None:
    if logprob is None:
        return None
    best = {chosen: logprob.chosen}
    for token, value in logprob.top:
        text = tokenizer.decode([token])
        best[text] = max(value, best.get(text, value))
    return best


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token])
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
