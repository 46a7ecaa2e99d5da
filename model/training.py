"""Training of small models: data and a recipe → a checkpoint with its card. Resumable, reproducible from its seed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from model import config
from model.checkpoint import native
from model.checkpoint.weights import write
from model.codec import architecture_from_dict, architecture_to_dict
from model.corpus import Tokens, check_vocab
from model.dense import dense_input
from model.evaluation import bits_per_byte
from model.initialise import initialise
from model.moe import MoE, Routing
from model.recipe import Recipe, check_fit
from model.routing import dead, imbalance
from model.transformer import Transformer
from model.values.base import check


def loads_of(routing: Routing, experts: int) -> Tensor:
    """How many choices fell on each expert (experts,), those included that it had no room for."""
    chosen = torch.where(routing.experts < 0, ~routing.experts, routing.experts)
    return torch.bincount(chosen.flatten(), minlength=experts)


def balance_loss(routing: Routing, experts: int) -> Tensor:
    """experts * sum over experts of (share of choices) * (mean probability): 1 when even (Switch eq. 4)."""
    share = loads_of(routing, experts) / routing.experts.numel()
    return experts * (share * routing.logits.softmax(-1).mean(0)).sum()


def z_loss(routing: Routing) -> Tensor:
    """Mean squared log-sum-exp of the router logits (arXiv:2202.08906 eq. 5)."""
    return routing.logits.logsumexp(-1).square().mean()


def corrected(bias: Tensor, loads: Tensor, step: float) -> Tensor:
    """The correction bias after one step: up for experts below the mean load, down above (arXiv:2408.15664)."""
    loads = loads.float()
    return bias + step * torch.sign(loads.mean() - loads)


def balance(loads: Sequence[Tensor]) -> dict[str, list[float]]:
    """The load of each mixture's busiest expert over the mean, and how many experts no token chose; empty without
    mixtures."""
    if not loads:
        return {}
    arrays = [load.numpy() for load in loads]
    return {
        "imbalance": [round(float(imbalance(load)), 3) for load in arrays],
        "dead_experts": [int(dead(load)) for load in arrays],
    }


class Trainer:
    """One training run in a folder: `run` goes on from the last save."""

    def __init__(
        self, architecture: config.Architecture, recipe: Recipe, train: Tokens, valid: Tokens, folder: Path
    ) -> None:
        check_fit(architecture, recipe)
        _check_texts(train, valid, architecture.vocab, recipe.length)
        self.recipe, self.train, self.valid, self.folder = recipe, train, valid, folder
        self.model = Transformer(architecture)
        initialise(self.model, recipe.seed)
        self.mixtures = [module for module in self.model.modules() if isinstance(module, MoE)]
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        rest = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95), fused=True)
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, Any]] = []
        self._resume()

    def run(self, progress: Callable[[int, float], None]) -> float:
        """Train to the last step; returns bits per byte on the whole validation text. progress(step, loss)."""
        while self.step < self.recipe.steps:
            started = time.monotonic()
            loss = self._one_step()
            self.seconds += time.monotonic() - started
            self.step += 1
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.steps:
                self._evaluate(loss)
            if self.step % self.recipe.save_every == 0 or self.step == self.recipe.steps:
                self._save()
            progress(self.step, loss)
        return bits_per_byte(self.model, self.valid, self.recipe.length)

    def _one_step(self) -> float:
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        windows = torch.from_numpy(self.train.batch(self.recipe.seed, self.step, self.recipe.batch, self.recipe.length))
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed((self.recipe.seed << 32) + self.step)  # the routers' jitter, the same after a resume
            out = self.model(dense_input(self.model.architecture, windows[:, :-1]))
        loss = F.cross_entropy(out.logits, windows[:, 1:].flatten())
        (loss + self._router_losses(out.routings)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._move_corrections(out.routings)
        return loss.item()

    def _router_losses(self, routings: tuple[Routing, ...]) -> Tensor:
        total = torch.zeros(())
        for moe, routing in zip(self.mixtures, routings, strict=True):
            weights = moe.value.router.loss
            if weights.balance:
                total = total + weights.balance * balance_loss(routing, moe.value.experts)
            if weights.z:
                total = total + weights.z * z_loss(routing)
        return total

    def _move_corrections(self, routings: tuple[Routing, ...]) -> None:
        for moe, routing in zip(self.mixtures, routings, strict=True):
            if moe.router.correction is not None:
                loads = loads_of(routing, moe.value.experts)
                moe.router.correction.copy_(corrected(moe.router.correction, loads, moe.value.router.loss.bias_step))

    def _evaluate(self, loss: float) -> None:
        """Add a row to the curve: the quality on some of the validation text, and where its tokens went."""
        loads = [torch.zeros(moe.value.experts, dtype=torch.long) for moe in self.mixtures]

        def routed(routings: tuple[Routing, ...]) -> None:
            for load, routing in zip(loads, routings, strict=True):
                load += loads_of(routing, len(load))

        with torch.autocast("cpu", torch.bfloat16):
            quality = bits_per_byte(self.model, self.valid, self.recipe.length, most_tokens=32_768, routed=routed)
        row: dict[str, Any] = {
            "step": self.step,
            "train_loss": round(loss, 4),
            "valid_bits_per_byte": round(quality, 4),
        }
        self.curve.append(row | balance(loads) | {"seconds": round(self.seconds, 1)})

    def _save(self) -> None:
        """Save weights and optimiser state as safetensors, then the rest as JSON: last, so that a cut is harmless."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for i, slots in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{i}.{name}": tensor for name, tensor in slots.items()}
        path = self.folder / f"state-{self.step}.safetensors"
        write(path, {name: tensor.contiguous() for name, tensor in state.items()})
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "recipe": dataclasses.asdict(self.recipe),
            "architecture": architecture_to_dict(self.model.architecture),
        }
        native.write_json(self.folder / "state.json", facts)
        for old in self.folder.glob("state-*.safetensors"):
            if old != path:
                old.unlink()

    def _resume(self) -> None:
        path = self.folder / "state.json"
        if not path.exists():
            return
        facts: dict[str, Any] = json.loads(path.read_text())
        if facts["recipe"] != dataclasses.asdict(self.recipe):
            raise ValueError(f"{path} was begun with another recipe: {facts['recipe']}")
        if "architecture" in facts and architecture_from_dict(facts["architecture"]) != self.model.architecture:
            raise ValueError(f"{path} was begun with another architecture: go on with that, or train in another folder")
        self.step, self.seconds, self.curve = facts["step"], facts["seconds"], facts["curve"]
        tensors = load_file(self.folder / f"state-{self.step}.safetensors")
        self.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                index, _, slot = rest.partition(".")
                slots.setdefault(int(index), {})[slot] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})


def _check_texts(train: Tokens, valid: Tokens, vocab: int, length: int) -> None:
    for tokens in (train, valid):
        check_vocab(tokens, vocab)
    least = length + 2  # a window, its last target, and a second place to begin
    check(len(train.ids) >= least, f"length={length} needs {least} tokens of training text, there are {len(train.ids)}")
