"""Every model type of a config.json that loads. Only this folder knows families by name."""

from __future__ import annotations

from model.checkpoint.families import (
    bailing,
    bloom,
    cohere,
    deepseek,
    gemma,
    gpt,
    gpt_oss,
    granite,
    kimi,
    llama,
    llama4,
    minimax,
    mixtral,
    nemotron_h,
    neox,
    olmo,
    qwen_moe,
    qwen_next,
)
from model.checkpoint.families.family import Family

_UNSORTED: dict[str, Family] = {
    **bailing.FAMILIES,
    **bloom.FAMILIES,
    **cohere.FAMILIES,
    **deepseek.FAMILIES,
    **gemma.FAMILIES,
    **gpt.FAMILIES,
    **gpt_oss.FAMILIES,
    **granite.FAMILIES,
    **kimi.FAMILIES,
    **llama.FAMILIES,
    **llama4.FAMILIES,
    **minimax.FAMILIES,
    **mixtral.FAMILIES,
    **nemotron_h.FAMILIES,
    **neox.FAMILIES,
    **olmo.FAMILIES,
    **qwen_moe.FAMILIES,
    **qwen_next.FAMILIES,
}
FAMILIES = {name: _UNSORTED[name] for name in sorted(_UNSORTED)}
