"""What a start must not load: a second here is a second in every test and every restart of a container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW = ("torch._dynamo", "torch._inductor", "transformers", "sympy", "matplotlib")


def loaded(code: str, *, of: tuple[str, ...] = SLOW) -> list[str]:
    """Which of these modules are there after the code."""
    tell = f"\nimport sys; print(*(name for name in {of!r} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code + tell], cwd=ROOT, capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_listening_needs_no_torch() -> None:
    """Listeners answer /livez while the models are still on their way."""
    assert loaded("import server.__main__", of=("torch", "tokenizers.trainers", *SLOW)) == []


def test_an_embedded_model_is_loaded_without_a_compiler() -> None:
    code = """
import torch
from model import zoo
from model.checkpoint.loading import load_any
import server.build
for model in ("tales-dense", "tales-moe"):
    load_any(zoo.folder(model), torch.float32, lambda done, total: None)"""
    assert loaded(code) == []


def test_random_weights_are_made_without_a_compiler() -> None:
    code = """
import torch
from model import presets
from model.initialise import random_model
random_model(presets.scaled(presets.load("llama-3-8b"), "tiny"), 0)"""
    assert loaded(code) == []
