"""lm-eval measures quality through the server and finds what the model's own evaluation finds."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import native
from model.corpus import Tokens
from model.evaluation import bits_per_byte
from model.tokenizer import Tokenizer
from tests.clients.kit import ROOT, Served, program, run

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

LENGTH = 512
STORIES = (
    "Once upon a time there was a miller who had three sons, and when he died he left them nothing but his mill, his "
    "ass and his cat. The eldest took the mill, the second the ass, and the youngest had to be content with the cat.",
    "There was once a poor woodcutter who lived at the edge of a great forest with his wife and two children; the boy "
    "was called Hänsel and the girl Grethel. They had little to bite and to break.",
    "A king had a daughter who was so proud that no suitor was good enough for her.",
)

TASKS = {
    "tales_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "tales_greedy": """
output_type: loglikelihood
doc_to_text: "{{prompt}}"
doc_to_target: "{{greedy}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "tales_generate": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{greedy}}"
generation_kwargs:
  {until: ["\\n\\n", "Q:", "Question:", "</s>", "<|im_end|>"], max_gen_toks: 8, temperature: 0, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}


def test_lm_eval_agrees_with_the_evaluation_of_the_model(served: Served) -> None:
    lm_eval = program("python", "lm_eval")
    folder = served.work / "lm_eval"
    folder.mkdir()
    _write_tasks(folder, served.url)
    place = f"model=tales-dense,base_url={served.url}/v1/completions,tokenizer={ROOT}/model/zoo/tales-dense"
    run(
        served,
        lm_eval,
        *("--model", "local-completions", "--batch_size", "2", "--include_path", str(folder)),
        *("--model_args", f"{place},tokenizer_backend=huggingface,max_length={LENGTH},num_concurrent=1"),
        *("--tasks", ",".join(TASKS), "--output_path", str(folder / "out")),
    )
    [path] = (folder / "out").rglob("results*.json")
    results: dict[str, Any] = json.loads(path.read_text())["results"]
    assert results["tales_rolling"]["bits_per_byte,none"] == pytest.approx(own_bits_per_byte(), abs=1e-3)
    assert results["tales_greedy"]["acc,none"] == 1.0, "what is greedy is found to be greedy"
    assert results["tales_generate"]["exact_match,none"] == 1.0


def own_bits_per_byte() -> float:
    """What `python -m model evaluate` computes, of each story after an end token."""
    folder = ROOT / "model" / "zoo" / "tales-dense"
    model, tokenizer = native.load(folder, torch.float32), Tokenizer.load(folder)
    bits = 0.0
    for story in STORIES:
        ids, size = [min(tokenizer.eos_ids), *tokenizer.encode(story)], len(story.encode())
        assert len(ids) <= LENGTH
        bits += size * bits_per_byte(model, Tokens(np.array(ids), size), LENGTH)
    return bits / sum(len(story.encode()) for story in STORIES)


def _write_tasks(folder: Path, url: str) -> None:
    """The stories, and what the model says after the beginning of each."""
    begun = [story[:40].rpartition(" ")[0] for story in STORIES]  # whole words, or they would be tokenised otherwise
    asked = zip(STORIES, begun, strict=True)
    lines = [{"text": story, "prompt": prompt, "greedy": _greedy(url, prompt)} for story, prompt in asked]
    data = folder / "stories.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in lines))
    for name, task in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test"
        (folder / f"{name}.yaml").write_text(head + task)


def _greedy(url: str, prompt: str) -> str:
    body = {"model": "tales-dense", "prompt": prompt, "temperature": 0, "max_tokens": 8}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        text: str = json.load(answer)["choices"][0]["text"]
    return text
