"""Training: resumable to the bit, able to learn, with a card that tells the curve."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model import bpe, presets
from model import recipe as recipes
from model.__main__ import app, main
from model.checkpoint import native
from model.config import (
    Architecture,
    Attention,
    Block,
    Capacity,
    ConfigError,
    FeedForward,
    Grouped,
    Groups,
    Head,
    Latent,
    Learned,
    MoE,
    Norm,
    Rotary,
    Router,
)
from model.config import RouterLoss as Loss
from model.corpus import Tokens, check_vocab
from model.moe import Router as RouterModule
from model.norm import build_norm
from model.recipe import Recipe
from model.training import Trainer, balance

ROOT = Path(__file__).parents[2]
ATTENTION = Attention(Grouped(2, 1, 8), Rotary())
RECIPE = Recipe(6, batch=2, length=12, warmup=2, rate=0.01, evaluate_every=3, save_every=2)


def toy(branch: FeedForward | MoE) -> Architecture:
    return Architecture(32, 16, 64, (Block((ATTENTION, branch)),), head=Head(tied=True))


DENSE = toy(FeedForward(24))
SPARSE = toy(MoE(4, 2, FeedForward(12), Router("sigmoid", correction=True, loss=Loss(balance=0.01, z=0.001))))
SWITCH = toy(MoE(4, 1, FeedForward(12), Router(capacity=Capacity(1.0, 12), correction=True, loss=Loss(balance=0.01))))
JITTER = toy(MoE(4, 2, FeedForward(12), Router(loss=Loss(jitter=0.1))))
EACH = pytest.mark.parametrize(
    "architecture", [DENSE, SPARSE, SWITCH, JITTER], ids=["dense", "sparse", "capacity", "jitter"]
)


def counting(length: int = 400) -> Tokens:
    """A text that repeats 0 1 2 … 9: easy to learn, hopeless to guess."""
    return Tokens((np.arange(length) % 10).astype(np.uint16), text_bytes=length)


def trained(architecture: Architecture, folder: Path, *stops: int) -> Trainer:
    """Train in as many processes as there are stops: each begins with nothing but the folder."""
    for stop in stops:
        trainer = Trainer(architecture, RECIPE, counting(), counting(100), folder)

        def interrupt(step: int, _loss: float, stop: int = stop) -> None:
            if step == stop:
                raise KeyboardInterrupt

        try:
            trainer.run(interrupt)
        except KeyboardInterrupt:
            torch.manual_seed(stop)  # whatever the process did besides
    return trainer


@EACH
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(architecture: Architecture, tmp_path: Path) -> None:
    """To the bit: cut after a save, and between two saves, where one step is done again."""
    whole = trained(architecture, tmp_path / "whole", 6)
    cut = trained(architecture, tmp_path / "cut", 2, 5, 6)
    assert cut.step == whole.step == 6
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(cut.model.state_dict()[name], tensor), name
    assert [{**row, "seconds": 0} for row in cut.curve] == [{**row, "seconds": 0} for row in whole.curve]


def test_a_run_goes_on_only_with_its_own_recipe_and_architecture(tmp_path: Path) -> None:
    trained(DENSE, tmp_path, 2)
    with pytest.raises(ValueError, match="another architecture"):
        Trainer(replace(DENSE, context=2 * DENSE.context), RECIPE, counting(), counting(), tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(DENSE, replace(RECIPE, rate=0.5), counting(), counting(), tmp_path)


@EACH
def test_the_loss_falls(architecture: Architecture, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=40, batch=8, evaluate_every=20, save_every=40)
    losses: list[float] = []
    quality = Trainer(architecture, recipe, counting(), counting(101), tmp_path).run(
        lambda _, loss: losses.append(loss)
    )
    assert losses[0] > 3 and losses[-1] < 0.5 * losses[0]
    assert quality < 2.5  # bits a byte; ln 32 / ln 2 = 5 without learning


def test_the_rate_warms_up_then_follows_a_cosine() -> None:
    recipe = Recipe(110, warmup=10, rate=1.0, final_rate=0.2)
    assert [recipe.rate_at(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert [recipe.rate_at(step) for step in (35, 60, 85, 110)] == pytest.approx(
        [0.2 + 0.8 * (1 + c) / 2 for c in (0.5**0.5, 0, -(0.5**0.5), -1)]
    )


def test_the_curve_tells_where_tokens_go(tmp_path: Path) -> None:
    """Busiest expert over mean, and experts that nobody chose, of every mixture."""
    assert balance([torch.tensor([0, 6, 3, 3]), torch.tensor([2, 2])]) == {
        "imbalance": [2.0, 1.0],
        "dead_experts": [1, 0],
    }
    for row in trained(SPARSE, tmp_path / "sparse", 6).curve:
        assert len(row["dead_experts"]) == 1 and 1 <= row["imbalance"][0] <= 4
    assert all("imbalance" not in row for row in trained(DENSE, tmp_path / "dense", 6).curve)


@pytest.mark.parametrize("bias", [False, True])
def test_routers_score_in_float32_under_autocast(bias: bool) -> None:
    router = RouterModule(MoE(4, 2, FeedForward(12), Router(bias=bias)), 16)
    x = torch.randn(5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = router(x).logits
    assert logits.dtype == torch.float32 and torch.equal(logits, router(x).logits)


@pytest.mark.parametrize("value", [Norm(), Norm(bias=True), Norm("layer", bias=True), Norm(offset=1.0)])
def test_a_norm_has_the_type_of_its_input_under_autocast(value: Norm) -> None:
    """Where a projection comes before it that is bfloat16, as with norms of queries; PyTorch warns of a mixture."""
    norm = build_norm(value, 8)
    x = torch.randn(5, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), norm(x.float()), atol=0.02, rtol=0.01)


def test_corrections_move_in_training_and_are_not_trained(tmp_path: Path) -> None:
    trainer = trained(SPARSE, tmp_path, 6)
    (mixture,) = trainer.mixtures
    assert mixture.router.correction is not None
    steps = mixture.router.correction / 0.001
    assert torch.allclose(steps, steps.round(), atol=1e-3) and steps.any()


RECIPE_TEXT = """
[architecture]
vocab = 300
width = 16
context = 32
layers = ["dense*2"]
[architecture.blocks.dense]
branches = [{type = "attention", heads = {type = "grouped", query = 2, kv = 1, dim = 8}},
            {type = "feed_forward", hidden = 24}]
[training]
steps = 4
batch = 2
length = 16
evaluate_every = 2
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories, and a tokenizer of 300 tokens in `words`."""
    folder = tmp_path_factory.mktemp("corpus")
    stories = [json.dumps({"text": f"Once upon a time there was a fox, number {i}. " * 4}) for i in range(30)]
    for split in ("train", "valid"):
        with gzip.open(folder / f"stories.{split}.jsonl.gz", "wt") as file:
            file.write("\n".join(stories))
    bpe.train((json.loads(story)["text"] for story in stories), 300, folder / "words")
    return folder


def command(recipe: Path, corpus: Path, out: Path) -> list[str]:
    places = ["--corpus", str(corpus), "--tokenizer", str(corpus / "words"), "--out", str(out)]
    return ["train", str(recipe), *places]


ENCODED = """
[architecture.encoder]
layers = ["dense"]
[architecture.blocks.cross]
branches = [{type = "cross_attention", heads = {query = 2, kv = 1, dim = 8}}]
"""
BAD_RECIPES = [
    ("steps = 4", "steps = 4\nsteps_ = 5", "bad.toml: training.steps_: unknown field; known are steps, batch"),
    ("[training]", "[train]", "bad.toml: the table [training] is missing"),
    ("[training]", "[other]\n[training]", "bad.toml: other: unknown table; known are architecture, training and card"),
    (
        "[training]",
        "[card]\nlicence = 'MIT'\n[training]",
        "bad.toml: card.licence: unknown field; known are data, license",
    ),
    ("steps = 4", "", "bad.toml: training.steps: required field is missing"),
    ("batch = 2", "batch = 'two'", "bad.toml: training.batch: expected a whole number, got 'two'"),
    ("batch = 2", "batch = 0", "bad.toml: training: batch must be positive, got 0"),
    ("batch = 2", "rate = inf", "bad.toml: training: rate must be at most 1e+30, got inf"),
    ("batch = 2", "seed = -1", "bad.toml: training: seed must be from 0 to 2.14748e+09, got -1"),
    ("length = 16", "length = 33", "bad.toml: length=33 exceeds the model's context=32"),
    ("vocab = 300", "vocab = 299", "tokenizer.json: a token has the id 299, the model has vocab=299"),
    ("steps = 4", "steps =", "bad.toml: Invalid value"),
    ("context = 32", "context = 4000", "length=3999 needs 4001 tokens of training text, there are "),
    ('["dense*2"]', '["dense", "cross"]', "bad.toml: encoder: only models without one are trained here"),
    (
        "vocab = 300",
        'preset = "gpt2"',
        "bad.toml: architecture.blocks: unknown field; known are preset, scale, context",
    ),
]


@pytest.mark.parametrize(("found", "written", "message"), BAD_RECIPES, ids=[message for *_, message in BAD_RECIPES])
def test_a_bad_recipe_is_one_line(
    found: str,
    written: str,
    message: str,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = RECIPE_TEXT.replace(found, written)
    if "4000" in written:
        text = text.replace("length = 16", "length = 3999")
    if "cross" in written:
        text = text.replace("[training]", ENCODED + "[training]")
    (tmp_path / "bad.toml").write_text(text)
    monkeypatch.setattr("sys.argv", ["model", *command(tmp_path / "bad.toml", corpus, tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


PRESET_TEXT = """
[architecture]
preset = "{preset}"
{more}
[training]
steps = 2
batch = 2
length = 16
"""


@pytest.mark.parametrize(
    ("preset", "more", "context"),
    [("deepseek-v3", 'scale = "tiny"', 16), ("gpt2", 'scale = "tiny"\ncontext = 24', 24), ("gpt2", "", 16)],
)
def test_a_recipe_may_name_a_preset(preset: str, more: str, context: int, tmp_path: Path) -> None:
    path = tmp_path / "named.toml"
    path.write_text(PRESET_TEXT.format(preset=preset, more=more))
    architecture, recipe, _ = recipes.read(path, vocab=300)
    assert (architecture.vocab, architecture.context, recipe.length) == (300, context, 16)
    whole = presets.load(preset)
    assert architecture.width == (64 if more else whole.width)
    assert [moe.router.groups for _, moe in architecture.mixtures] == [Groups(8, 4)] * (3 if whole.mixtures else 0)
    if preset == "gpt2":
        assert architecture.embedding.position == Learned(context)


SHIPPED = {
    path: json.loads((path.parents[1] / folder / path.stem / "card.json").read_text())
    for place, folder in (("model/zoo", ""), ("client/compare/examples", "trained"))
    for path in (ROOT / place / "recipes").glob("*.toml")
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_recipe_of_a_model_that_ships_says_what_its_card_does(path: Path) -> None:
    *_, recipe, card = recipes.read(path, vocab=4096)
    assert asdict(card) == {key: SHIPPED[path][key] for key in ("data", "license")}
    assert recipe.steps == SHIPPED[path]["recipe"]["steps"]


def test_a_named_preset_is_trained(corpus: Path, tmp_path: Path) -> None:
    origin = "[card]\ndata = 'Foxes.'\nlicense = 'MIT'\n"
    (tmp_path / "mla.toml").write_text(PRESET_TEXT.format(preset="deepseek-v3", more='scale = "tiny"') + origin)
    result = CliRunner().invoke(app, command(tmp_path / "mla.toml", corpus, tmp_path / "run"))
    assert result.exit_code == 0, result.output
    checkpoint = tmp_path / "run" / "checkpoint"
    assert isinstance(native.read_architecture(checkpoint).attentions[0].heads, Latent)
    card = json.loads((checkpoint / "card.json").read_text())
    assert (card["data"], card["license"]) == ("Foxes.", "MIT")
    [row] = card["curve"]
    assert len(row["imbalance"]) == len(row["dead_experts"]) == 3
    assert all(1 <= one <= 64 for one in row["imbalance"]) and all(0 <= one < 64 for one in row["dead_experts"])


def test_the_command_trains_a_checkpoint_whose_card_has_the_curve(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "toy.toml"
    recipe.write_text(RECIPE_TEXT)
    result = CliRunner().invoke(app, command(recipe, corpus, tmp_path / "run"))
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "run" / "checkpoint" / "card.json").read_text())
    assert [row["step"] for row in card["curve"]] == [2, 4]
    assert card["seen_tokens"] == 4 * 2 * 16
    assert card["recipe"]["steps"] == 4 and card["recipe"]["rate"] == 0.002
    assert card["data"] == corpus.name and "license" not in card
    evaluate = ["evaluate", str(tmp_path / "run" / "checkpoint"), "--text", str(corpus / "stories.valid.jsonl.gz")]
    again = CliRunner().invoke(app, evaluate)
    assert again.exit_code == 0, again.output
    told = json.loads(again.output)
    # The checkpoint is bf16, the figure in the card was taken from the float32 weights.
    assert told["bits_per_byte"] == pytest.approx(card["bits_per_byte"]["stories.valid"], rel=0.01)
    assert told["length"] == 16, "as it was trained, not the 32 that it could have"
    for length in ("-1", "1000000"):
        refused = CliRunner().invoke(app, [*evaluate, "--length", length])
        assert isinstance(refused.exception, ValueError) and "length must be from 0 to" in str(refused.exception)


def test_a_model_of_the_zoo_is_evaluated_by_its_name(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "Once upon a time there was a fox."}))
    answer = CliRunner().invoke(app, ["evaluate", "tales-dense", "--text", str(text)])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.output)
    assert told["length"] == 512 and told["bytes"] == 33 and 0 < told["bits_per_byte"] < 3
    unknown = CliRunner().invoke(app, ["evaluate", "tales", "--text", str(text)])
    assert isinstance(unknown.exception, ValueError) and "tales: no such folder" in str(unknown.exception)


def test_a_text_of_other_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="the text has the token id 9, the model has vocab=9"):
        check_vocab(counting(), 9)
