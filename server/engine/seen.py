"""The tokens that a request has had. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Seen:
    """The distinct tokens of a prompt and of the outputs behind it, and how often each is among the outputs.

    It follows the outputs as they grow: a step pays for what is new, not for the whole context.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens = np.unique(np.asarray(prompt, np.int64))  # with room behind those that are there
        self._times = np.zeros_like(self._tokens)
        self._places = {token: place for place, token in enumerate(self._tokens.tolist())}
        self._followed = 0  # outputs

    def after(self, outputs: list[int], drafted: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, times) int64 once these outputs, which only ever grow, are there, and behind them a mere guess."""
        for token in outputs[self._followed :]:
            self._add(token)
        self._followed = len(outputs)
        count = len(self._places)
        tokens, times = self._tokens[:count], self._times[:count]
        if not drafted:
            return tokens, times
        new = [token for token in dict.fromkeys(drafted) if token not in self._places]
        behind = {token: count + place for place, token in enumerate(new)}
        tokens = np.concatenate((tokens, np.array(new, np.int64)))
        times = np.concatenate((times, np.zeros(len(new), np.int64)))
        for token in drafted:
            times[behind[token] if token in behind else self._places[token]] += 1
        return tokens, times

    def _add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):
            room = np.zeros(place + 64, np.int64)
            self._tokens, self._times = np.concatenate((self._tokens, room)), np.concatenate((self._times, room))
        self._tokens[place] = token
        self._times[place] += 1
