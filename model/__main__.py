"""python -m model: train, evaluate, inspect and measure models without a server."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import model.environment  # isort: skip  # noqa: F401  # before torch

import torch
import typer
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model import bpe, corpus, share, training, zoo
from model import recipe as recipes
from model.checkpoint import convert as conversion
from model.checkpoint import loading, native
from model.evaluation import bits_per_byte, window
from model.inspect import inspect
from model.kernels import panels, passes
from model.kernels.panels import Form
from model.tokenizer import Tokenizer
from model.values.base import ConfigError, check, within

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)  # markup would take the [tables] of files out of the help
app.command()(inspect)
app.command("roofline")(share.command)
Corpus = Annotated[
    Path, typer.Option(help="Folder with stories.train.jsonl.gz and stories.valid.jsonl.gz.", exists=True)
]


@app.command()
def tokenizer(
    corpus_folder: Annotated[Path, typer.Option("--corpus", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder to write tokenizer.json into.")],
    vocab: int = 4096,
) -> None:
    """Train a byte-level BPE tokenizer."""
    bpe.train(corpus.stories(corpus_folder / "stories.train.jsonl.gz"), vocab, out)


@app.command()
def train(
    recipe: Annotated[
        Path, typer.Argument(help="TOML file with [architecture], [training] and maybe [card].", exists=True)
    ],
    corpus_folder: Annotated[Path, typer.Option("--corpus", help="Folder of the corpus.", exists=True)],
    tokenizer_folder: Annotated[Path, typer.Option("--tokenizer", help="Folder of tokenizer.json.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run in it is continued.")],
    threads: Annotated[int, typer.Option(help="0: all cores.")] = 0,
) -> None:
    """Train a small model into OUT/checkpoint."""
    if threads:
        torch.set_num_threads(threads)
    words = _tokenizer(tokenizer_folder)
    architecture, plan, origin = recipes.read(recipe, words.vocab_size)
    loading.check_ids(words, architecture)
    train_tokens = corpus.tokenise(corpus_folder / "stories.train.jsonl.gz", words)
    valid_tokens = corpus.tokenise(corpus_folder / "stories.valid.jsonl.gz", words)
    trainer = training.Trainer(architecture, plan, train_tokens, valid_tokens, out)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(recipe.stem, total=plan.steps, completed=trainer.step)

        def advance(step: int, loss: float) -> None:
            progress.update(bar, completed=step, description=f"{recipe.stem} loss {loss:.3f}")

        quality = trainer.run(advance)
    said = {"data": origin.data or corpus_folder.resolve().name, "license": origin.license}
    card = _card(recipe, said, trainer, train_tokens, quality)
    native.save(out / "checkpoint", trainer.model, card)
    bpe.copy(tokenizer_folder, out / "checkpoint")
    typer.echo(f"{recipe.stem}: {quality:.4f} bits per byte on the validation text, written to {out / 'checkpoint'}")


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="Zoo model, checkpoint folder, or org/name of the Hugging Face hub.")],
    text: Annotated[Path, typer.Option(help="Stories as .jsonl or .jsonl.gz.", exists=True)],
    length: Annotated[int, typer.Option(help="Window in tokens; 0: as on the model's card, else up to 2,048.")] = 0,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of parameters and products.")] = "float32",
    weights: Annotated[Form, typer.Option(help="As a server with the same option.")] = "lossless",
) -> None:
    """Bits per byte of a text, as JSON."""
    loaded = loading.load_any(zoo.folder(name) or name, getattr(torch, dtype))
    model, architecture = loaded.model, loaded.architecture
    check(architecture.encoder is None, "encoder: only models without one are evaluated")
    within(0, architecture.context, length=length)
    length = length or window(loaded.source, architecture.context)
    if panels.available(weights, getattr(torch, dtype)) is None:
        raise ConfigError(f"weights: this machine has no kernels for {weights}")
    if weights in ("int8", "w8a8"):
        passes.apply(model.eval().requires_grad_(False), form=weights)
    tokens = corpus.tokenise(text, _tokenizer(loaded.source))
    corpus.check_vocab(tokens, architecture.vocab)
    told = {"bits_per_byte": bits_per_byte(model, tokens, length), "length": length, "tokens": len(tokens.ids) - 1}
    typer.echo(json.dumps(told | {"bytes": tokens.text_bytes}))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, or org/name of the Hugging Face hub.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    dtype: Annotated[
        Literal["stored", "float32", "bfloat16", "float16"], typer.Option(help="Of parameters.")
    ] = "stored",
) -> None:
    """Write a Hugging Face directory as a checkpoint of ours, or one of ours as a directory (Llama-, Mixtral-like)."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("reading")
        kind, written = conversion.convert(
            source,
            out,
            None if dtype == "stored" else getattr(torch, dtype),
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    typer.echo(f"{out}: {kind}, {str(written).removeprefix('torch.')}")


def _tokenizer(folder: Path) -> Tokenizer:
    found = loading.read_tokenizer(folder)
    if found is None:
        raise native.CheckpointError(f"{folder.name}: no {loading.TOKENIZER} in the folder")
    return found


def _card(
    path: Path, said: dict[str, str | None], trainer: training.Trainer, train_tokens: corpus.Tokens, quality: float
) -> dict[str, Any]:
    recipe = trainer.recipe
    how = {"optimiser": "AdamW, betas 0.9 and 0.95", "precision": "bf16 autocast, routers in float32"}
    return {
        "name": path.stem,
        **{key: words for key, words in said.items() if words is not None},
        "train_tokens": len(train_tokens.ids),
        "seen_tokens": trainer.step * recipe.batch * recipe.length,
        "bits_per_byte": {"stories.valid": round(quality, 4)},
        "recipe": dataclasses.asdict(recipe) | how,
        "seconds": round(trainer.seconds, 1),
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "command": f"python -m model train {path.name if path.is_absolute() else path} "
        "--corpus CORPUS --tokenizer TOKENIZER --out RUN",
        "curve": trainer.curve,
    }


def main() -> None:
    try:
        app(prog_name=os.environ.get("CALLED_AS"))  # whose command it is for the user; else as it was started
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
