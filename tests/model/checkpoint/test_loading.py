"""The ways to a model: sharded or not, with or without the root name, by path, by name, in any type, piece by piece."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import huggingface, native
from model.checkpoint.error import CheckpointError
from model.checkpoint.loading import load_any, read_architecture
from model.config import Architecture, Attention, Block, FeedForward, Grouped, Rotary
from model.dense import dense_input
from model.transformer import Transformer
from tests.model.checkpoint.tiny import draw_tokens, edit_json, logits_of, tiny_model
from tests.model.randomise import random_model

WEIGHTS = "model.safetensors"


def assert_equal(model: Transformer, reference: object) -> None:
    tokens = draw_tokens(97)
    expected = logits_of(reference, tokens)
    with torch.inference_mode():
        found = model(dense_input(model.architecture, tokens)).logits.view(expected.shape)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def rewrite(folder: Path, change: dict[str, Tensor | None]) -> None:
    """Add, replace or (None) take out tensors of a folder's file."""
    tensors = load_file(folder / WEIGHTS) | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS)


@pytest.mark.parametrize("case", ["llama", "mixtral", "gpt_neox"])
def test_shards_are_found_by_their_index(case: str, tmp_path: Path) -> None:
    reference = tiny_model(case)
    reference.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert not (tmp_path / WEIGHTS).exists()
    assert_equal(huggingface.load(tmp_path, torch.float32), reference)


def test_a_single_file_may_have_any_name(tmp_path: Path) -> None:
    reference = tiny_model("llama")
    reference.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "weights.safetensors")
    assert_equal(huggingface.load(tmp_path, torch.float32), reference)


@pytest.mark.parametrize(("case", "root"), [("gpt2", "transformer."), ("bloom", "transformer."), ("opt", "model.")])
def test_names_of_the_bare_model_do(case: str, root: str, tmp_path: Path) -> None:
    reference = tiny_model(case)
    reference.save_pretrained(tmp_path)
    bare = {name.removeprefix(root): tensor for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    save_file(bare, tmp_path / WEIGHTS)
    assert_equal(huggingface.load(tmp_path, torch.float32), reference)


IGNORABLE = {
    "gpt2": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias", "lm_head.weight"],
    "gpt_neox": ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.2.attention.rotary_emb.inv_freq"],
    "llama": ["model.layers.1.self_attn.rotary_emb.inv_freq"],
    "deepseek_v3": ["model.layers.4.mlp.gate.weight", "model.layers.4.shared_head.norm.weight"],
    "glm4_moe": ["model.layers.4.eh_proj.weight"],
    "ernie4_5_moe": ["model.mtp_block.0.mlp.up_proj.weight", "lm_head.weight"],
}


@pytest.mark.parametrize("case", IGNORABLE)
def test_what_no_forward_pass_reads_may_be_there(case: str, tmp_path: Path) -> None:
    reference = tiny_model(case)
    reference.save_pretrained(tmp_path)
    rewrite(tmp_path, {name: torch.ones(3) for name in IGNORABLE[case]})
    assert_equal(huggingface.load(tmp_path, torch.float32), reference)


def test_only_layers_behind_the_last_are_predictors(tmp_path: Path) -> None:
    tiny_model("deepseek_v3").save_pretrained(tmp_path)
    rewrite(tmp_path, {"model.layers.5.mlp.gate.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"surplus tensor model\.layers\.5\."):
        huggingface.load(tmp_path, torch.float32)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_types_are_converted_and_buffers_stay_float32(stored: torch.dtype, wanted: torch.dtype, tmp_path: Path) -> None:
    reference = tiny_model("minimax_m2").to(stored)
    reference.save_pretrained(tmp_path)
    model = huggingface.load(tmp_path, wanted)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    assert {buffer.dtype for _, buffer in model.named_buffers()} == {torch.float32}
    expected = reference.model.layers[1].self_attn.o_proj.weight.to(wanted)
    assert torch.equal(model.blocks[1].branches[0].out.weight, expected)


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    tiny_model("deepseek_v3").save_pretrained(tmp_path)
    seen: list[tuple[int, int]] = []
    huggingface.load(tmp_path, torch.float32, lambda done, total: seen.append((done, total)))
    total = sum(tensor.nbytes for tensor in load_file(tmp_path / WEIGHTS).values())
    assert {total for _, total in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)


# ---------------------------------------------------------------------------------------------- memory


def private_bytes() -> int:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("no RssAnon here")


def test_the_weights_are_never_in_memory_twice(tmp_path: Path) -> None:
    attention = Attention(Grouped(4, 2, 128), Rotary())
    block = Block((attention, FeedForward(2048)))
    architecture = Architecture(vocab=4096, width=512, context=64, blocks=(block,) * 4)
    native.save(tmp_path, random_model(architecture), {}, torch.float32)
    size = (tmp_path / WEIGHTS).stat().st_size
    assert size > 70e6
    peaks: list[int] = []
    before = private_bytes()
    model = native.load(tmp_path, torch.bfloat16, lambda done, total: peaks.append(private_bytes() - before))
    assert model.embedding.weight.dtype == torch.bfloat16
    assert max(peaks) < 0.5 * size * 1.25  # half of it is the model in bfloat16


# ---------------------------------------------------------------------------------------------- by path and by name


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes, an end token among three special ones, a chat template."""
    alphabet = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:89], "Ġ"]  # the space's stand-in
    vocabulary = {text: i for i, text in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<end>", "<a>", "<b>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<a>{{ m.content }}{% endfor %}<b>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete directory: model, tokenizer, template."""
    folder = tmp_path / "folder"
    tiny_model("llama").save_pretrained(folder)
    edit_json(folder / "config.json", eos_token_id=[5, 7])
    write_tokenizer(folder)
    return folder


def test_a_directory_loads_with_its_tokenizer(folder: Path) -> None:
    loaded = load_any(folder, torch.float32)
    assert loaded.source == folder
    assert loaded.architecture == loaded.model.architecture == read_architecture(str(folder))
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("ab c")) == "ab c"
    assert loaded.tokenizer.eos_ids == {2, 5, 7, 90}  # of generation_config, config and the tokenizer
    start, *middle, stop = loaded.tokenizer.render_chat([{"role": "user", "content": "<b>"}])
    assert (start, stop) == (91, 92)
    assert 92 not in middle
    assert_equal(loaded.model, tiny_model("llama"))


def test_ids_beyond_the_vocabulary_are_refused_with_both_numbers(folder: Path) -> None:
    edit_json(folder / "config.json", eos_token_id=97)
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: an end token has the id 97, the model has vocab=97$"):
        load_any(folder, torch.float32)
    edit_json(folder / "config.json", eos_token_id=2)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert backend.add_special_tokens([f"<image {i}>" for i in range(10)]) == 10
    backend.save(str(folder / "tokenizer.json"))
    loaded = load_any(folder, torch.float32).tokenizer
    assert loaded is not None and loaded.vocab_size == 103, "places for images, which no text can name, do no harm"
    backend.add_tokens(["word"])
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: a token has the id 103, the model has vocab=97$"):
        load_any(folder, torch.float32)


def test_a_folder_of_ours_loads_too(tmp_path: Path) -> None:
    architecture = Architecture(33, 16, 8, (Block((FeedForward(8),)),))
    model = random_model(architecture)
    native.save(tmp_path, model, {}, torch.float32)
    loaded = load_any(str(tmp_path), torch.float32)
    assert loaded.tokenizer is None
    assert loaded.architecture == architecture == read_architecture(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), model.parameters(), strict=True))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, which may not ask the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(cache: Path, name: str, folder: Path) -> Path:
    """Put a folder into the cache as the client does: blobs, a snapshot of links to them, a reference to it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    for place in (snapshot, blobs, repository / "refs"):
        place.mkdir(parents=True)
    for file in folder.iterdir():
        (blobs / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blobs / file.name)
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_a_name_is_taken_from_the_cache(folder: Path, cache: Path) -> None:
    snapshot = cached(cache, "some-org/tiny.model", folder)
    loaded = load_any("some-org/tiny.model", torch.float32)
    assert loaded.source == snapshot
    assert loaded.tokenizer is not None
    assert_equal(loaded.model, tiny_model("llama"))


def test_only_weights_and_texts_are_asked_for(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: dict[str, list[str]] = {}

    def download(name: str, **options: list[str]) -> str:
        asked.update(options)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_any("some-org/tiny", torch.float32)
    names = ["config.json", "model-00001-of-00002.safetensors", "chat_template.jinja", "tokenizer.json"]
    others = ["modeling.py", "pytorch_model.bin", "tokenizer.py", "original/a.safetensors", "consolidated.safetensors"]
    taken = huggingface_hub.utils.filter_repo_objects(names + others, **asked)
    assert list(taken) == names
    assert read_architecture("some-org/tiny") == load_any(folder, torch.float32).architecture
    taken = huggingface_hub.utils.filter_repo_objects(names + others, **asked)
    assert list(taken) == [name for name in names if "safetensors" not in name], "without weights where none are read"


def test_a_name_that_is_nowhere(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^no-org/no-model: not in the local cache, and the hub cannot be"):
        load_any("no-org/no-model", torch.float32)
