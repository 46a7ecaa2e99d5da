"""Dyno and other engines in turn, on the same weights and under the same load.

    python -m tests.bench.peers --peers FOLDER [--models tiny-dense …] [--against vllm …] [--cases c1 c8 c32 …]
                                [--rounds 6] [--load foreign] [--out FILE]

Who is measured and how it is started stands in tests/bench/peers.toml; FOLDER has the peers' environments and, under
models/, the checkpoints. Machines drift within the minute: a server of a peer is up together with ours, and both are
measured in turns (tests/bench/facing.py). An engine that measures itself in process is run between two turns of ours,
and the ratio is their mean against its figure. A row is marked `!` where others, or servers that were not asked, used
over 0.15 cores, or where our two turns differ by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import facing
from tests.bench.closed import Case, LoadFailed
from tests.bench.contender import Contender, External, NotMeasured, Running, Score, running
from tests.bench.processes import NOISY_CORES, Others, end_orderly

CASES = {
    "c1": Case(1, requests=8),
    "c8": Case(8, requests=24),
    "c32": Case(32, requests=64),
    "long": Case(4, prompt=1024, output=16, requests=16),
    "prefix": Case(8, prompt=832, output=32, shared=768, requests=32),
}
NAMES_ABROAD = {"long": "prefill"}  # how the measuring scripts of others call a case
DRIFT = 0.1
CASE_SECONDS = 400.0


@dataclass(frozen=True)
class Plan:
    """What was asked for, the commands with their folders filled in."""

    ours: Contender
    peers: tuple[Contender, ...]
    models: tuple[tuple[str, Path], ...]
    cases: tuple[str, ...]
    load: External | None
    repeats: int
    rounds: int
    quiet_seconds: float
    logs: Path


@dataclass(frozen=True, slots=True)
class Turn:
    """One start of one contender: its score in every case and over every target, and its seconds to a first token."""

    name: str
    scores: dict[tuple[str, str], Score] = field(default_factory=dict)  # (case, transport)
    start_seconds: float | None = None


def main() -> int:
    options = _options()
    plan = _plan(options)
    end_orderly()
    with options.out.open("a") as out:
        for model, path in plan.models:
            for peer in plan.peers:
                measured = _around(plan, peer, model, path) if peer.alone else _faced(plan, peer, model, path)
                print(f"\n**{model}**\n\n{HEAD if peer.alone else facing.HEAD}", flush=True)
                for line, scores in measured:
                    print(line, flush=True)
                    told = {"model": model, "against": peer.name, "at": time.time(), **scores}
                    out.write(json.dumps(told) + "\n")
    return 0


Line = tuple[str, dict[str, Any]]
"""A row of the table, and the scores that it comes from."""


def _faced(plan: Plan, peer: Contender, model: str, path: Path) -> Iterator[Line]:
    """Both servers up. Where one of them fails, it is told on stderr, and what comes after is left out."""
    logs = [plan.logs / f"{one.name}-{model}.log" for one in (plan.ours, peer)]
    try:
        with running(plan.ours, model, path, logs[0]) as ours, running(peer, model, path, logs[1]) as theirs:
            for number, case in enumerate(plan.cases):

                def once(server: Running, target: str, n: int, at: int = number, c: str = case) -> Score:
                    return _once(plan, server, c, target, (at, n))

                wait_for_quiet(plan.quiet_seconds)
                told = facing.face(ours, theirs, plan.rounds, once)
                scores = {who: [asdict(score) for score in some] for who, some in told.everything}
                yield facing.row(case, peer.name, told), {"case": case, **scores}
    except (NotMeasured, LoadFailed) as why:
        print(f"{model}: {why}", file=sys.stderr)


def _around(plan: Plan, peer: Contender, model: str, path: Path) -> Iterator[Line]:
    """Ours, the peer, ours again."""
    turns = [_turn(plan, one, model, path) for one in (plan.ours, peer, plan.ours)]
    for case, line in zip(plan.cases, rows(*turns, plan.cases), strict=True):
        told = [{t: asdict(score) for (c, t), score in turn.scores.items() if c == case} for turn in turns]
        yield line, {"case": case, "turns": told}


HEAD = """| case | ours, tokens/s | peer | tokens/s | ratio | first token, ms | gRPC / REST | others |
|---|--:|---|--:|--:|--:|--:|--:|"""


def rows(before: Turn, theirs: Turn, after: Turn, cases: Sequence[str]) -> Iterator[str]:
    """A Markdown row for every case that both sides have a figure of."""
    for case in cases:
        ours = [turn.scores[case, "http"] for turn in (before, after) if (case, "http") in turn.scores]
        peer = theirs.scores.get((case, "http"))
        if not ours or peer is None:
            yield f"| {case} | {_number(ours)} | {theirs.name} | {_number([peer] if peer else [])} | | | | |"
            continue
        rate = sum(score.rate for score in ours) / len(ours)
        drift = max(s.rate for s in ours) / min(s.rate for s in ours) - 1
        others = max(score.others for score in (*ours, peer))
        grpc = [turn.scores[case, "grpc"].rate for turn in (before, after) if (case, "grpc") in turn.scores]
        against = f"{sum(grpc) / len(grpc) / rate:.2f}" if grpc else ""
        mark = " !" if others > NOISY_CORES or drift > DRIFT else ""
        first = f"{_milliseconds(ours[-1])} / {_milliseconds(peer)}"
        yield (
            f"| {case} | {_number(ours)} | {theirs.name} | {peer.rate:,.1f} | **{rate / peer.rate:.2f}** | {first} "
            f"| {against} | {others:.2f}{mark} |"
        )


def _number(scores: Sequence[Score]) -> str:
    return " / ".join(f"{score.rate:,.1f}" for score in scores) or "not measured"


def _milliseconds(score: Score) -> str:
    return "–" if score.first_token is None else f"{score.first_token * 1e3:.1f}"


def _turn(plan: Plan, contender: Contender, model: str, path: Path) -> Turn:
    """Everything of one contender on one model. What it cannot do is told on stderr and left out."""
    turn = Turn(contender.name)
    if contender.alone:
        for case in plan.cases:
            score = _tell(f"{contender.name} {model} {case}", lambda c=case: _alone(plan, contender, model, path, c))
            if score is not None:
                turn.scores[case, "http"] = score
        return turn
    log = plan.logs / f"{contender.name}-{model}.log"
    try:
        with running(contender, model, path, log) as server:
            print(f"{contender.name} {model}: first token after {server.start_seconds:.1f} s", file=sys.stderr)
            for number, case in enumerate(plan.cases):
                for target in server.targets:
                    name = f"{contender.name} {model} {case} {target.partition(':')[0]}"
                    score = _tell(name, lambda c=case, t=target, n=number: _served(plan, server, c, t, n))
                    if score is not None:
                        turn.scores[case, target.partition(":")[0]] = score
            return replace(turn, start_seconds=server.start_seconds)
    except NotMeasured as why:
        print(f"{contender.name} {model}: {why}", file=sys.stderr)
        return turn


def _tell(name: str, measure: Any) -> Score | None:
    try:
        score: Score = measure()
    except (NotMeasured, LoadFailed) as why:
        print(f"{name}: {why}", file=sys.stderr)
        return None
    print(f"{name}: {score.rate:,.1f} tokens/s, others {score.others:.2f} cores", file=sys.stderr)
    return score


def _served(plan: Plan, server: Running, case: str, target: str, number: int) -> Score:
    """The median of the repeats."""
    wait_for_quiet(plan.quiet_seconds, server.process.pid)
    scores = [_once(plan, server, case, target, (number, i)) for i in range(plan.repeats)]
    firsts = [score.first_token for score in scores if score.first_token is not None]
    return Score(median(s.rate for s in scores), median(firsts), max(score.others for score in scores))


def _once(plan: Plan, server: Running, case: str, target: str, seed: tuple[int, int]) -> Score:
    """By our client or the foreign one (which speaks HTTP only)."""
    if plan.load is not None and target.startswith("http"):
        words = {**_words(case), "model": server.model, "port": server.port, "pid": server.process.pid}
        return plan.load.measure(words, CASE_SECONDS, {})
    return server.measure(CASES[case], target, (int(time.time()), *seed))


def _alone(plan: Plan, contender: Contender, model: str, path: Path, case: str) -> Score:
    wait_for_quiet(plan.quiet_seconds)
    words = {**_words(case), "model": model, "path": path, "python": sys.executable}
    return External(contender.command).measure(words, CASE_SECONDS, contender.environment)


def _words(case: str) -> dict[str, object]:
    value = CASES[case]
    return {**asdict(value), "requests": value.count, "case": NAMES_ABROAD.get(case, case)}


def wait_for_quiet(seconds: float, *also: int) -> None:
    """Until others use no more cores than a figure bears, but no longer than so many seconds."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with Others(also) as others:
            time.sleep(1.0)
        if not others.noisy:
            return


def _plan(options: argparse.Namespace) -> Plan:
    told = tomllib.loads(options.file.read_text())
    folders = {"peers": str(options.peers), "models": str(options.peers / "models")}

    def contender(name: str, values: dict[str, Any]) -> Contender:
        values = {"name": name, **_filled(values, folders)}
        return Contender(**values)

    ours = contender("dyno", told["ours"])
    if options.flags:
        ours = replace(ours, command=f"{ours.command} {options.flags}")
    load = told["load"][options.load]["command"] if options.load else None
    return Plan(
        ours=ours,
        peers=tuple(contender(name, told["peers"][name]) for name in options.against),
        models=tuple((name, options.peers / "models" / name) for name in options.models),
        cases=tuple(options.cases),
        load=External(_filled(load, folders)) if load else None,
        repeats=options.repeats,
        rounds=options.rounds,
        quiet_seconds=options.quiet_seconds,
        logs=options.peers / "logs",
    )


def _filled(value: Any, words: dict[str, str]) -> Any:
    """Only these words; the others stay for later."""
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(f"{{{name}}}", word)
        return value
    if isinstance(value, dict):
        return {key: _filled(inner, words) for key, inner in value.items()}
    return [_filled(inner, words) for inner in value] if isinstance(value, list) else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers; models/ has the checkpoints")
    parser.add_argument("--file", type=Path, default=Path(__file__).with_name("peers.toml"), help="who is measured")
    parser.add_argument("--models", nargs="+", default=["tiny-dense", "small-dense", "small-moe", "base-dense"])
    parser.add_argument("--against", nargs="+", default=["vllm"], help="peers by their name in the file")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--flags", default="", help="more flags of our server, in one word")
    parser.add_argument("--load", help="a load command of the file for all servers, instead of our client")
    parser.add_argument("--rounds", type=int, default=6, help="of a case with both servers up")
    parser.add_argument("--repeats", type=int, default=2, help="runs of a case between peers that measure themselves")
    parser.add_argument("--quiet-seconds", type=float, default=25.0, help="longest wait for others before each case")
    parser.add_argument("--out", type=Path, default=Path("runs/peers.jsonl"), help="every score, one turn a line")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    (options.peers / "logs").mkdir(exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
