"""python -m model inspect: architecture cards side by side, with a drawing of each model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from model import drawing, presets, source, toml, zoo
from model.card import CACHE_LENGTHS, LENGTHS, card, fits
from model.checkpoint import loading
from model.codec import architecture_to_dict, load_named
from model.config import Architecture, ConfigError
from model.describe import describe
from model.footprint import BYTES, cache_bytes, cache_bytes_per_token, memory_bytes, state_bytes
from model.naming import Names
from model.operations import Operations, flops_per_token
from model.parameters import Parameters, Weights, parameters, without_memory
from model.presets import SCALES, Preset
from model.source import Checkpoint, File
from model.values.base import check, positive

LABELS, COLUMN = 16, 30  # columns of the terminal for the labels, and at least for each model


@dataclass(frozen=True, slots=True)
class Subject:
    """One model on the card; `preset` only where it is one as published, `names` of blocks where its file has them."""

    name: str
    title: str
    architecture: Architecture
    words: dict[str, str]
    counted: Parameters
    dtype: str
    preset: Preset | None = None
    gib: float | None = None
    names: Names | None = None

    @property
    def running(self) -> Architecture:
        return without_memory(self.architecture)


def inspect(
    names: Annotated[list[str] | None, typer.Argument(help="Presets, zoo models, files or folders.")] = None,
    scale: Annotated[str | None, typer.Option(help=f"A small model of the same shape: {', '.join(SCALES)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects instead of the card.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="One model as an architecture file.")] = False,
    dtype: Annotated[str, typer.Option(help=f"Of weights and cache: {', '.join(BYTES)}.")] = "bfloat16",
    memory: Annotated[float | None, typer.Option(help="GiB: what fits into it beside the weights.")] = None,
) -> None:
    """What architectures are and cost: attention, positions, experts, parameters, cache, operations, and a drawing.

    Without names: what there is.
    """
    if dtype not in BYTES:
        raise ConfigError(f"dtype: {dtype!r} is not one of {', '.join(BYTES)}")
    positive(memory=memory)
    check(not as_toml or (len(names or ()) == 1 and not as_json), "--toml writes one model, and no --json beside it")
    subjects = [_subject(name, scale, dtype, memory) for name in names or ()]
    if as_toml:
        [one] = subjects
        typer.echo(toml.written(architecture_to_dict(one.architecture, one.names)))
    elif as_json:
        cards = [card(s.name, s.architecture, dtype, s.preset, scale, s.names) | _fitting(s) for s in subjects]
        typer.echo(json.dumps(cards or known(), indent=1, ensure_ascii=False))
    elif subjects:
        print_cards(subjects, Console(highlight=False))
    else:
        typer.echo("\n".join(known()))


def known() -> list[str]:
    """Names that can be inspected without a file: the zoo's, then the presets'."""
    return [*zoo.names(), *presets.names()]


def find(name: str) -> tuple[Architecture, Preset | None]:
    """What NAME stands for; ConfigError or CheckpointError when that is nothing, or cannot be read."""
    return _found(name)[:2]


def _found(name: str) -> tuple[Architecture, Preset | None, Names | None]:
    found = source.find(name)
    match found:
        case File(path):
            architecture, names = load_named(path)
            return architecture, None, names
        case Checkpoint(place):
            return loading.read_architecture(place), None, None
        case Preset():
            return found.architecture, found, None


def _fitting(subject: Subject) -> dict[str, Any]:
    return {} if subject.gib is None else {"fits": fits(subject.architecture, subject.gib, subject.dtype)}


def _subject(name: str, scale: str | None, dtype: str, gib: float | None) -> Subject:
    architecture, preset, names = _found(name)
    known_as = title = name if preset is None else preset.name
    if scale is not None:
        architecture, title, preset = presets.scaled(architecture, scale), f"{known_as} ({scale})", None
        names = None  # its blocks are others
    words, counted = describe(architecture, names), parameters(architecture)
    return Subject(known_as, title, architecture, words, counted, dtype, preset, gib, names)


def print_cards(subjects: Sequence[Subject], console: Console) -> None:
    """Tables of as many models as the terminal has room for, then their drawings."""
    for few in _chunks(subjects, max(1, (console.width - LABELS) // COLUMN)):
        console.print(_table(few))
    for few in _chunks(subjects, max(1, (console.width + 2) // (drawing.WIDTH + 2))):
        console.print(_drawings(few))


def _chunks(subjects: Sequence[Subject], size: int) -> list[Sequence[Subject]]:
    return [subjects[i : i + size] for i in range(0, len(subjects), size)]


def _table(subjects: Sequence[Subject]) -> Table:
    table = Table(box=None, expand=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", style="dim", width=LABELS - 2)
    for subject in subjects:
        table.add_column(subject.title, ratio=1, max_width=60)
    for section in ROWS:
        for label, words in section.items():
            cells = [words(subject) for subject in subjects]
            if any(cells):
                table.add_row(label, *(cell or "–" for cell in cells))
        table.add_row()
    return table


def _drawings(subjects: Sequence[Subject]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in subjects:
        grid.add_column(width=drawing.WIDTH, no_wrap=True)
    grid.add_row(*(Text(subject.title, style="bold") for subject in subjects))
    grid.add_row(*(Text("\n".join(drawing.draw(subject.architecture, subject.names))) for subject in subjects))
    return grid


def count(number: float) -> str:
    """671,026,404,352 → "671 B", 37,550,000,000 → "37.6 B"."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{_three(number / scale)} {unit}"
    return f"{number:g} "


def size(number: float) -> str:
    """Bytes in binary units: 70,272 → "68.6 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{_three(number)} {unit}"
        number /= 1024
    return f"{_three(number)} TiB"


def _three(number: float) -> str:
    """A number with three significant digits, from 1,000 on with all of its whole ones, and no exponent."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _shares(parts: Weights | Operations) -> str:
    """Each part and its share, the largest first, those under half a per cent left out."""
    shares = {name.replace("_", "-"): number / parts.total for name, number in asdict(parts).items()}
    ordered = sorted(shares.items(), key=lambda share: -share[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in ordered if share >= 0.005)


def _origin(subject: Subject) -> str:
    preset = subject.preset
    return "" if preset is None else f"{preset.year}, {preset.source}"


def _sizes(subject: Subject) -> str:
    value = subject.architecture
    return f"{value.width:,} wide, context {value.context:,}, vocabulary {value.vocab:,}"


def _active(subject: Subject) -> str:
    total, active = subject.counted.total, parameters(subject.running).active
    return "all" if active == total else f"{count(active)} ({active / total:.1%})"


def _published(subject: Subject) -> str:
    if subject.preset is None or subject.preset.published.total is None:
        return ""
    published = subject.preset.published
    total = "the same to the digit" if published.exact else count(subject.preset.published.total)
    active = "" if published.active is None else f", {count(published.active)} active"
    return f"{total}{active}{f' ({published.note})' if published.note else ''}"


def _cached(length: int) -> Callable[[Subject], str]:
    return lambda subject: size(cache_bytes(subject.architecture, length, subject.dtype)) + _beyond(subject, length)


def _flops(length: int) -> Callable[[Subject], str]:
    def words(subject: Subject) -> str:
        operations = flops_per_token(subject.running, length)
        total = count(operations.total).replace("B", "G")
        return f"{total}FLOP{_beyond(subject, length)}: {_shares(operations)}"

    return words


def _left_out(subject: Subject) -> str:
    """How many layers and parameters a text alone does not pass, in words; empty without any."""
    layers = len(subject.architecture.blocks) - len(subject.running.blocks)
    idle = subject.counted.total - parameters(subject.running).total
    return f"{layers} layers, {count(idle)} parameters: they look at a memory, a text has none" if layers else ""


def _state(subject: Subject) -> str:
    """What recurrent mixers carry of a request; empty without them."""
    carried = state_bytes(subject.architecture)
    return f"{size(carried)} a request, whatever its length" if carried else ""


def _memory(subject: Subject) -> str:
    """How much cross-attention keeps of a token of the source, in words; empty when nothing."""
    size_of_one = memory_bytes(subject.running, 1, subject.dtype)
    return f"{size(size_of_one)}, for cross-attention" if size_of_one else ""


def _fits(subject: Subject) -> str:
    if subject.gib is None:
        return ""
    found = fits(subject.architecture, subject.gib, subject.dtype)
    if not found["largest_batch"] and not found["largest_context"]:
        return f"{subject.gib:g} GiB do not hold it"
    batch, longest = found["largest_batch"], found["largest_context"]
    requests = "no request" if not batch else "1 request" if batch == 1 else f"{batch:,} requests"
    return f"{requests} of {found['length']:,}, or one of {longest:,}, in {subject.gib:g} GiB"


def _beyond(subject: Subject, length: int) -> str:
    return " (beyond its context)" if length > subject.architecture.context else ""


def _words(key: str) -> Callable[[Subject], str]:
    return lambda subject: subject.words[key]


ROWS: tuple[dict[str, Callable[[Subject], str]], ...] = (
    {
        "from": _origin,
        "layers": _words("layers"),
        "sizes": _sizes,
    },
    {
        "embedding": _words("embedding"),
        "attention": _words("attention"),
        "sees": _words("sees"),
        "positions": _words("position"),
        "norms": _words("block"),
        "feed-forward": _words("feed_forward"),
        "experts": _words("experts"),
        "head": _words("head"),
    },
    {
        "parameters": lambda subject: f"{count(subject.counted.total)} ({subject.counted.total:,})",
        "active": _active,
        "  less tables": lambda subject: count(parameters(subject.running).active_without_embeddings),
        "  they are in": lambda subject: _shares(subject.counted.all),
        "left out": _left_out,
        "published": _published,
        "weights": lambda subject: f"{size(subject.counted.total * BYTES[subject.dtype])} in {subject.dtype}",
    },
    {
        "cache a token": lambda subject: size(cache_bytes_per_token(subject.architecture, subject.dtype)),
        "  and a state": _state,
        **{f"  at {length:,}": _cached(length) for length in CACHE_LENGTHS},
        "a source token": _memory,
        "fits": _fits,
    },
    {f"FLOPs at {length:,}": _flops(length) for length in LENGTHS},
    {"note": lambda subject: "" if subject.preset is None else subject.preset.note},
)
