"""The service through HTTP against Transformers' `generate` in process: same weights, same machine, in turn.

    python -m tests.bench.against_transformers [--streams 1 32] [--rounds 2]

Shape `small-dense`: 16 layers, width 768, 12 heads on 4, feed-forward 3,072, vocabulary 8,192, random bfloat16 weights;
128 tokens in, 128 out, greedy. Transformers runs a static batch; the service a closed loop, telemetry on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from client.launch import ServerProcess
from tests.bench.closed import Case, measure

PROMPT, OUTPUT, VOCAB = 128, 128, 8192
WAVES = 2  # each stream answers so many requests in one measurement


def make_checkpoint(folder: Path) -> None:
    """Random weights in Hugging Face's layout, with a byte tokenizer beside them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1234)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=768, num_hidden_layers=16, num_attention_heads=12, num_key_value_heads=4,
        intermediate_size=3072, max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def prompts(streams: int, round_: int) -> list[list[int]]:
    import numpy as np

    return np.random.default_rng((round_, streams)).integers(300, VOCAB, (streams * WAVES, PROMPT)).tolist()


def measure_generate(folder: Path, streams: int, rounds: int) -> list[float]:
    """Output tokens a second of Transformers' static batch, one figure a round."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    figures = []
    for round_ in range(rounds):
        batch = torch.tensor(prompts(streams, round_)[:streams])
        with torch.inference_mode():
            model.generate(batch[:, :16], max_new_tokens=4, do_sample=False, pad_token_id=0)
            began = time.perf_counter()
            model.generate(batch, max_new_tokens=OUTPUT, min_new_tokens=OUTPUT, do_sample=False, pad_token_id=0)
            figures.append(streams * OUTPUT / (time.perf_counter() - began))
    return figures


def measure_service(target: str, streams: int, rounds: int) -> list[float]:
    """Output tokens a second of the service at so many streams, one figure a round."""
    case = Case(streams, PROMPT, OUTPUT, requests=WAVES * streams)
    return [measure(target, "m", case, (round_, streams), VOCAB).output_rate for round_ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "small-dense"
        make_checkpoint(folder)
        print("streams  generate tok/s  service tok/s  ratio")
        for streams in options.streams:
            flags = ["--model", f"m={folder}", "--dtype", "bfloat16", "--max-rows", "64", "--cache-tokens", "32768"]
            with ServerProcess(flags) as server:
                ours = measure_service(server.http, streams, options.rounds)
            theirs = measure_generate(folder, streams, options.rounds)
            peer, own = statistics.median(theirs), statistics.median(ours)
            print(f"{streams:7d}  {peer:14.1f}  {own:13.1f}  {own / peer:5.2f}", flush=True)


if __name__ == "__main__":
    main()
