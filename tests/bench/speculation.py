"""Speed with and without guessing from the text, in turns in one run, on text that repeats itself and on plain text.

    python -m tests.bench.speculation [--model tales-dense] [--streams 1 8] [--tokens 128] [--draft 8] [--rounds 3]

Greedy; every answer is held to the one without guesses. "right" is the share of guesses that were, "steps" the forward
passes of an answer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

from server.build import build_model
from server.config import Settings
from server.engine.engine import Engine
from server.engine.request import Request, Sampling
from server.engine.stats import RequestStats
from server.engine.step import Runner
from tests.fakes import Recorder

REFRAIN = (
    'The old woman went to the well and said: "Well, well, give me water for the {0}." But the well said: "First bring '
    'me a rope from the {1}." So she went to the {1} and said: "{1}, {1}, give me a rope for the well." '
)
THINGS = ("cow", "miller", "goat", "smith", "hen", "baker", "cat", "king", "dog", "fox")
PLAIN = "Once upon a time there lived in the {0} of a great forest a poor {1} who had"


@dataclass(frozen=True)
class Ran:
    """What one run over all streams gave."""

    seconds: float
    answers: list[list[int]]
    stats: list[RequestStats]

    @property
    def rate(self) -> float:
        """Output tokens a second."""
        return sum(map(len, self.answers)) / self.seconds


def prompts(streams: int, repeating: bool) -> list[str]:
    pairs = [(THINGS[n % len(THINGS)], THINGS[(n // len(THINGS) + n + 1) % len(THINGS)]) for n in range(streams)]
    return [REFRAIN.format(*pair) * 3 if repeating else PLAIN.format(*pair) for pair in pairs]


def run(runner: Runner, texts: list[list[int]], tokens: int, speculate: int) -> Ran:
    """All texts at once, to the end, in an engine of their own."""
    seen = Recorder()
    engine = Engine("m", runner, observer=seen, max_rows=64, prefix_cache=False, speculate=speculate)
    requests = [Request(str(n), tuple(text), Sampling(tokens, temperature=0.0), 0.0) for n, text in enumerate(texts)]
    for request in requests:
        engine.add(request)
    began = time.perf_counter()
    while engine.has_work:
        engine.step()
    return Ran(time.perf_counter() - began, [request.outputs for request in requests], seen.requests)


def compare(runner: Runner, texts: list[list[int]], tokens: int, draft: int, rounds: int) -> str:
    """One line of the table, after `rounds` turns of each and one to warm up."""
    plain, quick = run(runner, texts, tokens, 0), run(runner, texts, tokens, draft)
    rates: list[tuple[float, float]] = []
    for _ in range(rounds):
        plain, quick = run(runner, texts, tokens, 0), run(runner, texts, tokens, draft)
        rates.append((plain.rate, quick.rate))
    differing = sum(a != b for a, b in zip(plain.answers, quick.answers, strict=True))
    drafted, accepted = (sum(getattr(s, f"{kind}_tokens") for s in quick.stats) for kind in ("drafted", "accepted"))
    without, with_it = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(b / a for a, b in rates)
    steps = statistics.mean(stats.steps for stats in quick.stats)
    right = accepted / drafted if drafted else 0.0
    return f"{without:9.0f} {with_it:9.0f} {ratio:7.2f} {right:7.0%} {steps:7.1f} {differing:7d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tales-dense")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=128, help="of every answer")
    parser.add_argument("--draft", type=int, default=8, help="most guesses a step")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = build_model(
        options.model, Settings(model=(options.model,), dtype=options.dtype, measure_machine=False), Recorder()
    )
    print(f"{options.model} {options.dtype}, {options.tokens} tokens, at most {options.draft} guesses a step; tokens/s")
    print(f"{'text':10} {'streams':>7} {'without':>9} {'with':>9} {'ratio':>7} {'right':>7} {'steps':>7} {'differ':>7}")
    for repeating in (True, False):
        for streams in options.streams:
            texts = [model.tokenizer.encode(text) for text in prompts(streams, repeating)]
            line = compare(model.engine._runner, texts, options.tokens, options.draft, options.rounds)
            print(f"{'repeating' if repeating else 'plain':10} {streams:7d} {line}")


if __name__ == "__main__":
    main()
