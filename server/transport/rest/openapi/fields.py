"""What each field of a body means and how far it goes, read off the limits. The shapes are those of `schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from server.administration.host import MOST_CACHE_TOKENS, MOST_SEED, SPEC_CHARS
from server.limits import Limits
from server.transport.rest.foreign import NEUTRAL_IN_CHAT, NEUTRAL_IN_STRUCTURED_OUTPUTS
from server.transport.rest.schema import IGNORED, IGNORED_IN_MESSAGES, UNSUPPORTED

Told: TypeAlias = dict[str, Any]
"""Keywords of JSON schema that are added to those of the shape; `anyOf`, `type` and the like replace them."""

NO_EFFECT = "Accepted and ignored, for compatibility."
NOT_OFFERED = "Not supported; other values are rejected."
INT64 = 2**63
INT32 = 2**31


def told(text: str, default: Any = None, **keywords: Any) -> Told:
    """`default` None: there is none to tell."""
    return {"description": text, **({} if default is None else {"default": default}), **keywords}


def fields(limits: Limits) -> dict[str, dict[str, Told]]:
    """What is told of every field, by names of shape and field; those under "" mean the same in every shape."""
    return {
        "": {**_generation(limits), **_reading(), **_sampling(limits), **_refused(UNSUPPORTED)},
        "CompletionBody": _completion(limits),
        "ChatBody": _chat(limits),
        "MessageBody": _message(limits),
        "StreamOptions": _stream(),
        "DynoOptions": _dyno(),
        "ResponseFormat": _response_format(),
        "NamedSchema": _named_schema(limits),
        "StructuredOutputs": _structured(limits),
        "TokenizeBody": _tokenize(limits),
        "DetokenizeBody": _detokenize(limits),
        **_admin(limits),
    }


def _generation(limits: Limits) -> dict[str, Told]:
    form, chars = "Constrains the output: ", limits.guidance_chars
    texts = {"type": "string", "maxLength": chars}
    return {
        "model": told("Name of a served model; may be left out when exactly one is served."),
        "n": told("How many independent continuations of each prompt.", 1, minimum=1, maximum=limits.choices),
        "stream": told("Answer with server-sent events.", False),
        "stream_options": told("What a stream reports beside its text; needs `stream`."),
        "user": told("A label for the operator's request log, printable.", maxLength=limits.user_chars),
        "dyno": told("Its presence asks for the measurements of each choice. docs/telemetry.md defines them."),
        "prompt_logprobs": told(
            "Also the log-probability of each token of the prompt, and this many best alternatives.",
            minimum=0,
            maximum=limits.logprobs,
        ),
        "priority": told(
            "The lower, the earlier its turn. One step counts as a tenth of a second of waiting.",
            0,
            minimum=-limits.priority,
            maximum=limits.priority,
        ),
        "response_format": told(form + "OpenAI's way."),
        "guided_json": told(
            form + "a JSON schema, or its text.",
            anyOf=[{"type": "object"}, {"type": "boolean"}, texts, {"type": "null"}],
        ),
        "guided_regex": told(form + "a regular expression that all of it matches.", maxLength=chars),
        "guided_choice": told(form + "one of these texts.", minItems=1, maxItems=limits.guidance_choices),
        "guided_grammar": told(form + "a grammar in the Lark language, with a rule `start`.", maxLength=chars),
        "structured_outputs": told(form + "vLLM's newer way."),
        **{name: told(NO_EFFECT) for name in IGNORED},
    }


def _reading() -> dict[str, Told]:
    return {
        "add_special_tokens": told(
            "Of a text: whether the tokenizer puts its special tokens around it, as one for the beginning.", True
        ),
        "split_special_tokens": told(
            "Of a text: read special tokens that are written in it as plain text. Use it for untrusted text.",
            False,
        ),
    }


def _sampling(limits: Limits) -> dict[str, Told]:
    penalty = {"minimum": -limits.penalty, "maximum": limits.penalty}
    least, most = limits.repetition
    stop = {"type": "string", "minLength": 1, "maxLength": limits.stop_chars}
    bias = {"type": "number", "minimum": -limits.bias, "maximum": limits.bias}
    ids = {"type": "integer", "minimum": 0}
    return {
        "max_tokens": told("Most tokens to generate; with the prompt within the model's context.", minimum=0),
        "min_tokens": told("No end before this many; at most `max_tokens`.", 0, minimum=0),
        "temperature": told("0 is greedy.", 1, minimum=0, maximum=limits.temperature),
        "top_k": told("Keep only this many best tokens; 0 and -1 are off.", 0, minimum=-1, maximum=INT32 - 1),
        "top_p": told("Keep the smallest set of best tokens of this mass.", 1, exclusiveMinimum=0, maximum=1),
        "min_p": told("Keep tokens of at least this part of the best one's probability.", 0, minimum=0, maximum=1),
        "presence_penalty": told("Subtracted from the logit of every token already generated.", 0, **penalty),
        "frequency_penalty": told("Subtracted once for each time that a token was generated.", 0, **penalty),
        "repetition_penalty": told(
            "Divides positive and multiplies negative logits of tokens in prompt or output.",
            1,
            minimum=least,
            maximum=most,
        ),
        "logit_bias": told(
            "Added to the logits of these token ids, which are the keys.",
            type=["object", "null"],
            additionalProperties=bias,
            propertyNames={"pattern": "^-?[0-9]{1,19}$"},
            maxProperties=limits.logit_bias,
        ),
        "seed": told("Seed of the sampling; left out, a fresh one each time.", minimum=-INT64, maximum=INT64 - 1),
        "stop": told(
            "Texts that end the answer and are not shown.",
            anyOf=[stop, {"type": "array", "items": stop, "maxItems": limits.stop}, {"type": "null"}],
        ),
        "stop_token_ids": told("Token ids that end the answer.", items=ids, maxItems=limits.stop_ids),
        "ignore_eos": told("Continue after the model's end token.", False),
        "allowed_token_ids": told(
            "Only these tokens; not together with constrained output.",
            items=ids,
            minItems=1,
            maxItems=limits.allowed_ids,
        ),
        "include_stop_str_in_output": told("Include what ended the answer in its text.", False),
    }


def _refused(unsupported: Mapping[str, tuple[Any, ...]]) -> dict[str, Told]:
    """Known from other servers, and refused unless they ask for nothing."""
    return {
        name: told(NOT_OFFERED, enum=sorted(harmless, key=lambda value: value is None))
        for name, harmless in unsupported.items()
    }


def _completion(limits: Limits) -> dict[str, Told]:
    text = {"type": "string", "maxLength": limits.content_chars}
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    several = {"minItems": 1, "maxItems": limits.prompts}
    lists = [{"type": "array", "items": one, **several} for one in (text, ids)]
    return {
        "prompt": told(
            "A text, a list of texts, token ids, or a list of such lists; each of at least one token.",
            anyOf=[text, ids, *lists],
        ),
        "max_tokens": told(
            "Most tokens to generate; with the prompt within the model's context. 0 where the prompt is returned "
            "(`echo`) or scored (`prompt_logprobs`).",
            16,
            minimum=0,
        ),
        "logprobs": told(
            "Log-probabilities of the tokens, and of this many best ones.", minimum=0, maximum=limits.logprobs
        ),
        "echo": told("The prompt before the answer; with `logprobs` also its log-probabilities.", False),
    }


def _chat(limits: Limits) -> dict[str, Told]:
    return {
        **_refused(NEUTRAL_IN_CHAT),
        "messages": told(
            "The conversation, oldest message first; the last one may not be blank. All texts together have at most "
            f"{limits.content_chars} characters.",
            minItems=1,
            maxItems=limits.messages,
        ),
        "max_tokens": told("The older name of `max_completion_tokens`.", minimum=0),
        "max_completion_tokens": told("Most tokens to generate; left out, what fits into the context.", minimum=0),
        "logprobs": told("Whether to return log-probabilities.", False),
        "top_logprobs": told("Of this many best tokens; needs `logprobs`.", minimum=0, maximum=limits.logprobs),
    }


def _message(limits: Limits) -> dict[str, Told]:
    text = {"type": "string", "maxLength": limits.content_chars}
    part = {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": text},
        "required": ["type", "text"],
        "additionalProperties": False,
    }
    return {
        "role": told(
            "Who speaks; `developer` is `system`.", enum=["system", "developer", "user", "assistant"], type="string"
        ),
        "content": told("A text, or parts of type text.", anyOf=[text, {"type": "array", "items": part}]),
        **{name: told(NO_EFFECT) for name in IGNORED_IN_MESSAGES},
    }


def _stream() -> dict[str, Told]:
    return {
        "include_usage": told("A last chunk with the usage and no choices.", False),
        "continuous_usage_stats": told("The usage so far in every chunk; needs `include_usage`.", False),
        "include_obfuscation": told(NO_EFFECT),
    }


def _dyno() -> dict[str, Told]:
    return {
        "routing": told("How much of the routing to report.", "layers"),
        "routing_start": told("With `tokens`: the first position reported.", 0, minimum=0, maximum=INT32 - 1),
        "latency": told("Where the time went.", True),
        "compute": told("What was computed and moved.", True),
    }


def _response_format() -> dict[str, Told]:
    return {
        "type": told("`text` asks for nothing."),
        "json_schema": told("Needed by, and only with, the type `json_schema`."),
    }


def _named_schema(limits: Limits) -> dict[str, Told]:
    return {
        "name": told("Ignored."),
        "description": told("Ignored."),
        "schema": told(f"The JSON schema, or its text; at most {limits.guidance_chars} characters."),
        "strict": told("Ignored: the schema is always enforced."),
    }


def _structured(limits: Limits) -> dict[str, Told]:
    chars = limits.guidance_chars
    return {
        "json": told(f"A JSON schema, or its text; at most {chars} characters."),
        "regex": told("A regular expression that all of it matches.", maxLength=chars),
        "choice": told("One of these texts.", minItems=1, maxItems=limits.guidance_choices),
        "grammar": told("A grammar in the Lark language, with a rule `start`.", maxLength=chars),
        "json_object": told("Any JSON object.", False),
        **_refused(NEUTRAL_IN_STRUCTURED_OUTPUTS),
    }


def _tokenize(limits: Limits) -> dict[str, Told]:
    return {
        "prompt": told("The text.", maxLength=limits.content_chars),
    }


def _detokenize(limits: Limits) -> dict[str, Told]:
    return {"tokens": told("Token ids of the model.", items={"type": "integer", "minimum": 0})}


def _admin(limits: Limits) -> dict[str, dict[str, Told]]:
    return {
        "LoadBody": {
            "model": told("NAME, PATH or ID=NAME, as `--model` takes it.", minLength=1, maxLength=SPEC_CHARS),
            "scale": told("Size of a preset or an architecture file: tiny, small or medium. Default: as it is."),
            "seed": told("Seed of the random weights of a model without a checkpoint.", minimum=0, maximum=MOST_SEED),
            "cache_tokens": told("Size of the model's cache in tokens.", minimum=1, maximum=MOST_CACHE_TOKENS),
            "detached": told("Answer at once, while the model loads.", False),
        },
        "UnloadBody": {
            "model": told("Its name; also of one that could not be loaded, which is listed no more then."),
            "drain_seconds": told(
                "Seconds its requests have to finish; left out, the server's `--drain-seconds`.",
                minimum=0,
                maximum=limits.request_seconds,
            ),
        },
        "CancelBody": {"id": told("The server's id of the request.")},
        "ResetBody": {"model": told("Name of a served model; left out, all of them.")},
        "DrainBody": {},
    }
