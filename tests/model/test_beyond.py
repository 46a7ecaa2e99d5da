"""Architectures beyond the naive reference and the checkpoint loaders, held against Transformers: an encoder-decoder,
cross-attention to an image, sparse selection, a temperature that counts from 0, experts beside a feed-forward, the
sparse mixer."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from model import config
from model.config import Architecture, Attention, Block, FeedForward, Grouped, Head, MoE, Norm, Rotary, Router
from model.dense import DenseMemory, dense_input, dense_memory
from model.transformer import Transformer
from tests.model import translation
from tests.model.checkpoint.tiny import randomised

transformers.logging.set_verbosity_error()
NORM = Norm(eps=1e-6)
VOCAB, WIDTH, CONTEXT = 41, 24, 64


def built(architecture: Architecture, weights: dict[str, Tensor]) -> Transformer:
    model = Transformer(architecture).eval().requires_grad_(False)
    model.load_state_dict(weights)
    return model


def peer(model: Any) -> Any:
    """The model of the other library, every number drawn."""
    return randomised(model.eval().requires_grad_(False), seed=3)


def tokens(length: int, batch: int = 2) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def assert_same(found: Tensor, expected: Tensor) -> None:
    expected = expected.flatten(0, 1)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def switch_architecture() -> Architecture:
    heads, position = Grouped(3, 3, 10), config.Buckets(8, 20)
    dense = FeedForward(36, "relu", gated=False)
    router = Router(normalise=False, capacity=config.Capacity(1.0, 12))
    feeds = (dense, MoE(4, 1, dense, router))
    attention, cross = Attention(heads, position, scale=1.0), config.CrossAttention(heads, scale=1.0)
    return Architecture(
        VOCAB,
        WIDTH,
        CONTEXT,
        tuple(Block((attention, cross, feed), NORM) for feed in feeds),
        norm=NORM,
        head=Head(tied=True, scale=WIDTH**-0.5),
        encoder=config.Encoder(tuple(Block((attention, feed), NORM) for feed in feeds), NORM),
    )


def test_switch_from_prompt_to_logits() -> None:
    theirs = peer(
        transformers.SwitchTransformersForConditionalGeneration(
            transformers.SwitchTransformersConfig(
                vocab_size=VOCAB, d_model=WIDTH, d_kv=10, d_ff=36, num_heads=3, num_layers=2, num_decoder_layers=2,
                num_experts=4, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, expert_capacity=3,
                relative_attention_num_buckets=8, relative_attention_max_distance=20, dropout_rate=0.0,
            )
        )
    )  # fmt: skip
    model = built(switch_architecture(), translation.switch(theirs.state_dict(), layers=2))
    source, target = tokens(27), tokens(25)
    expected = theirs(input_ids=source, decoder_input_ids=target, use_cache=False).logits
    out = model(dense_input(model.architecture, target, dense_memory(model, source)))
    assert_same(out.logits, expected)
    assert (out.routings[0].experts < 0).any(), "no token was dropped: the capacity was not tried"


def vision_architecture() -> Architecture:
    heads, feed = Grouped(4, 2, 6), FeedForward(36)
    own = Block((Attention(heads, Rotary(theta=5e5)), feed), NORM)
    normed = Grouped(4, 2, 6, qk_norm=config.QKNorm(NORM))
    cross = Block((config.CrossAttention(normed), feed), NORM, gated=True)
    return Architecture(VOCAB, WIDTH, CONTEXT, (own, cross, own), config.Embedding(spare=8), NORM)


@pytest.mark.parametrize("seeing", [True, False], ids=["with an image", "without an image"])
def test_the_text_model_of_llama_3_2_vision(seeing: bool) -> None:
    theirs = peer(
        transformers.MllamaForCausalLM(
            transformers.models.mllama.configuration_mllama.MllamaTextConfig(
                vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                intermediate_size=36, cross_attention_layers=[1], max_position_embeddings=CONTEXT, rms_norm_eps=1e-6,
                pad_token_id=0, bos_token_id=0, eos_token_id=0,
                rope_parameters={"rope_type": "default", "rope_theta": 5e5},
                attn_implementation="eager",  # without a mask the fused one takes a look at an image for causal
            )
        )
    )  # fmt: skip
    model = built(vision_architecture(), translation.vision(theirs.state_dict(), layers=3))
    text, states = tokens(9), torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    expected = theirs(text, cross_attention_states=states if seeing else None, use_cache=False).logits
    out = model(dense_input(model.architecture, text, DenseMemory(states) if seeing else None))
    assert_same(out.logits, expected)


def indexed_architecture(top_k: int) -> Architecture:
    heads = config.Latent(3, 10, 8, 6, 7, 13, norm=NORM)
    attention = Attention(heads, Rotary(layout="interleaved"), indexer=config.Indexer(11, 10, top_k))
    router = Router("sigmoid", True, 2.5, correction=True, groups=config.Groups(4, 2))
    feeds = (FeedForward(36), MoE(8, 3, FeedForward(11), router, FeedForward(11)))
    return Architecture(VOCAB, WIDTH, CONTEXT, tuple(Block((attention, feed), NORM) for feed in feeds), norm=NORM)


@pytest.mark.parametrize("top_k", [4, 64], ids=["few keys", "all keys"])
def test_the_indexer_of_deepseek_v3_2(top_k: int) -> None:
    """With so many small heads no two keys score the same: the other library leaves open which it takes then."""
    theirs = peer(
        transformers.DeepseekV32ForCausalLM(
            transformers.DeepseekV32Config(
                vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=36, moe_intermediate_size=11,
                num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, n_shared_experts=1,
                n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2, first_k_dense_replace=1,
                kv_lora_rank=10, q_lora_rank=13, qk_rope_head_dim=6, qk_nope_head_dim=8, v_head_dim=7,
                index_n_heads=11, index_head_dim=10, index_topk=top_k, max_position_embeddings=CONTEXT, pad_token_id=0,
                attn_implementation="eager", experts_implementation="eager",
            )
        )
    )  # fmt: skip
    weights = translation.latent(theirs.state_dict(), layers=2, plain=8, rotary=6, value=7)
    model = built(indexed_architecture(top_k), weights)
    text = tokens(17)
    assert_same(model(dense_input(model.architecture, text)).logits, theirs(text, use_cache=False).logits)


def test_the_temperature_of_mistral_4() -> None:
    """It rises at positions 4, 8 and so on, not at the ones before them as Llama 4's."""
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 4}
    theirs = peer(
        transformers.Mistral4ForCausalLM(
            transformers.Mistral4Config(
                vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=36, moe_intermediate_size=11,
                num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, n_routed_experts=8,
                num_experts_per_tok=3, first_k_dense_replace=1, kv_lora_rank=10, q_lora_rank=13, qk_rope_head_dim=6,
                qk_nope_head_dim=8, v_head_dim=7, max_position_embeddings=CONTEXT, pad_token_id=0,
                rope_parameters=yarn | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5},
                attn_implementation="eager", experts_implementation="eager",
            )
        )
    )  # fmt: skip
    attention = Attention(
        config.Latent(3, kv_rank=10, plain_dim=8, rotary_dim=6, value_dim=7, query_rank=13),
        Rotary(layout="interleaved", scaling=config.YarnScaling(8.0, 4, magnitude=1.0)),
        scale=14**-0.5 * (0.1 * math.log(8) + 1) ** 2,
        temperature=config.Temperature(4, 0.5, offset=0),
    )
    feeds = (FeedForward(36), MoE(8, 3, FeedForward(11), shared=FeedForward(11)))
    blocks = tuple(Block((attention, feed), NORM) for feed in feeds)
    architecture = Architecture(VOCAB, WIDTH, CONTEXT, blocks, norm=NORM)
    model = built(architecture, translation.latent(theirs.state_dict(), layers=2, plain=8, rotary=6, value=7))
    text = tokens(17)
    assert_same(model(dense_input(architecture, text)).logits, theirs(text, use_cache=False).logits)


def paired_architecture() -> Architecture:
    def block(heads: Grouped, position: Rotary, span: config.Span) -> Block:
        router = Router(expert_gain=True, norm=NORM)
        mixture = MoE(6, 2, FeedForward(10, "gelu_tanh"), router)
        feed = config.Beside(FeedForward(36, "gelu_tanh"), mixture, NORM)
        return Block((Attention(heads, position, span, scale=1.0), feed), NORM, "sandwich")

    inner, bare = config.QKNorm(NORM), Norm(eps=1e-6, weight=False)
    scaling = Rotary(1e6, 0.25, scaling=config.ProportionalScaling())
    local = block(Grouped(4, 2, 8, qk_norm=inner, value_norm=bare), Rotary(), config.Window(5))
    whole = block(Grouped(4, 1, 16, qk_norm=inner, shared_value=True, value_norm=bare), scaling, config.Full())
    embedding = config.Embedding(scale=WIDTH**0.5)
    return Architecture(VOCAB, WIDTH, CONTEXT, (local, whole), embedding, NORM, Head(tied=True))


def test_gemma_4_with_experts_beside_the_feed_forward() -> None:
    theirs = peer(
        transformers.Gemma4ForCausalLM(
            transformers.Gemma4TextConfig(
                vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=8, global_head_dim=16, num_global_key_value_heads=1, sliding_window=5,
                attention_k_eq_v=True, layer_types=["sliding_attention", "full_attention"], enable_moe_block=True,
                hidden_size_per_layer_input=0, num_experts=6, top_k_experts=2, moe_intermediate_size=10, pad_token_id=0,
                max_position_embeddings=CONTEXT, attn_implementation="eager", experts_implementation="eager",
            )
        )
    )  # fmt: skip
    for layer in theirs.model.layers:
        layer.layer_scalar.fill_(1.0)
    model = built(paired_architecture(), translation.paired(theirs.state_dict(), layers=2))
    text = tokens(14)
    assert_same(model(dense_input(model.architecture, text)).logits, theirs(text, use_cache=False).logits)


def test_the_sparse_mixer_of_phi_3_5_moe() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer(
            transformers.PhimoeForCausalLM(
                transformers.PhimoeConfig(
                    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=36, num_hidden_layers=2, pad_token_id=0,
                    num_attention_heads=4, num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2,
                    attention_bias=True, lm_head_bias=True, max_position_embeddings=CONTEXT, rms_norm_eps=1e-6,
                    router_jitter_noise=0.4, attn_implementation="eager",
                )
            )
        )  # fmt: skip
    norm = Norm("layer", eps=1e-6, bias=True)
    attention = Attention(Grouped(4, 2, 6, bias=True), Rotary(theta=1e6), out_bias=True)
    mixture = MoE(5, 2, FeedForward(36), Router(config.SparseMixer(0.8), normalise=False))
    architecture = Architecture(
        VOCAB, WIDTH, CONTEXT, (Block((attention, mixture), norm),) * 2, norm=norm, head=Head(bias=True)
    )
    model = built(architecture, translation.mixed_sparsely(theirs.state_dict(), layers=2))
    text = tokens(12)
    assert_same(model(dense_input(architecture, text)).logits, theirs(text, use_cache=False).logits)
