"""The deployment files, read the way their tools read them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
CARD = ROOT / "docker-compose.cuda.yml"
SERVERS = {"dense": "tales-dense", "moe": "tales-moe"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM of a Dockerfile: what it stands on and its instructions, in order."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, word: str) -> list[str]:
        return [argument for instruction, argument in self.instructions if instruction == word]

    def last(self, word: str) -> str:
        return self.all(word)[-1]

    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for argument in self.all("ENV") for pair in shlex.split(argument))


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name."""
    found: dict[str, Stage] = {}
    for word, argument in _instructions(DOCKERFILE.read_text()):
        if word == "FROM":
            base, _, name = argument.split()
            current = name
            found[name] = Stage(name, base, ())
        elif found:
            stage = found[current]
            found[current] = Stage(stage.name, stage.base, (*stage.instructions, (word, argument)))
    return found


def _instructions(text: str) -> list[tuple[str, str]]:
    whole = re.sub(r"\\\n", "", "".join(line for line in text.splitlines(True) if not line.startswith("#")))
    pairs = (line.split(None, 1) for line in whole.splitlines() if line.strip())
    return [(word.upper(), argument.strip()) for word, argument in pairs]


def exec_form(argument: str) -> list[str]:
    """The words of an instruction in exec form; a shell form is an error."""
    words: list[str] = json.loads(argument)
    return words


def compose(path: Path = COMPOSE) -> dict[str, Any]:
    """A compose file with its variables at their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text())
    project: dict[str, Any] = yaml.safe_load(text)
    return project


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def seconds(duration: str) -> float:
    """A compose duration such as 1m30s in seconds."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(count) * units[unit] for count, unit in re.findall(r"([\d.]+)([hms])", duration))
