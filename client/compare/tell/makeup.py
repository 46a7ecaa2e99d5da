"""What the architectures are made of and how they are served, where that is not the same for all. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from client.api import ModelCard
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture

_WORDS = {  # of a card's description, by what a reader calls them
    "layers": "layers",
    "embedding": "embedding",
    "attention": "attention",
    "what a layer sees": "sees",
    "positions": "position",
    "norms": "block",
    "feed-forward": "feed_forward",
    "experts": "experts",
    "head": "head",
}


def differing(results: Results) -> tuple[tuple[str, ...], ...]:
    """A row for each thing that is not the same for all, its name first. Cards that do not tell count as no other."""
    experiment = results.experiment
    rows = [(name, _told(results.cards, key)) for name, key in _WORDS.items()]
    rows.append(("scale", _unlike([one.scale for one in experiment.architectures])))
    rows.append(("transport", _unlike([_transport(one, experiment.transport) for one in experiment.architectures])))
    rows.append(("flags of its server", _unlike([" ".join(one.flags) for one in experiment.architectures])))
    return tuple((name, *cells) for name, cells in rows if cells)


def _told(cards: Sequence[ModelCard], key: str) -> list[str]:
    """The words of each card; none where those that tell are alike."""
    said = [card.card.get("description", {}) for card in cards]
    known = {i: one[key] for i, one in enumerate(said) if key in one}
    return [known.get(i, "") or "–" for i in range(len(cards))] if _unlike(list(known.values())) else []


def _unlike(values: Sequence[str]) -> list[str]:
    """All of them, a dash for what is empty; none where they are alike."""
    return [value or "–" for value in values] if len(set(values)) > 1 else []


def _transport(one: Architecture, usual: str) -> str:
    if one.target:
        return "grpc" if one.target.startswith("grpc") else "rest"
    return one.transport or usual
