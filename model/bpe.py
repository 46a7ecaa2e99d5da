"""Training of a byte-level BPE tokenizer, through the `tokenizers` library."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.checkpoint.native import write_json

END = "<|endoftext|>"
FILES = ("tokenizer.json", "tokenizer_config.json")


def train(texts: Iterable[str], vocab: int, out: Path) -> None:
    """Learn `vocab` tokens and write a folder that `Tokenizer.load` and transformers' AutoTokenizer read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END}
    write_json(out / "tokenizer_config.json", settings | {"clean_up_tokenization_spaces": False})


def copy(source: Path, target: Path) -> None:
    """Take a tokenizer along with a checkpoint."""
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
