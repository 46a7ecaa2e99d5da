"""Forms of answers: whatever a model would like to say, what it says has the form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import pytest_asyncio
from llguidance import LLMatcher

from model import zoo
from model.tokenizer import ByteTokenizer, Tokenizer
from server.call import Guidance, GuidanceKind
from server.engine.constraint import Constraint, members
from server.errors import FormsUntried, InvalidValue
from server.guidance.grammar import check_guidance
from server.guidance.guides import REMEMBERED, Guides
from server.guidance.sandbox import Sandbox
from server.limits import Limits

LIMITS = Limits(guidance_seconds=5.0)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["kind", "wolf", "bär"]}, "maxItems": 3},
        "home": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/place"}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}
REGEX = r"(GET|POST) /[a-z]{1,8}(\?[a-z]=\d+)?"
GRAMMAR = 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9][0-9]{0,3}/'


def form(kind: str, text: str = "", choices: Sequence[str] = ()) -> Guidance:
    return Guidance(GuidanceKind(kind), "here", text, tuple(choices))


FORMS = {
    "object": form("json_object"),
    "schema": form("json_schema", json.dumps(PERSON)),
    "anything": form("json_schema", "true"),
    "regex": form("regex", REGEX),
    "choice": form("choice", choices=["yes", "no", 'a "quote"\n\\ ü 🐻', "/", "not at all"]),
    "grammar": form("grammar", GRAMMAR),
}


def assert_has_form(text: str, guidance: Guidance) -> None:
    match guidance.kind:
        case GuidanceKind.JSON_OBJECT:
            assert isinstance(json.loads(text), dict)
        case GuidanceKind.JSON_SCHEMA:
            jsonschema.validate(json.loads(text), json.loads(guidance.text))
        case GuidanceKind.REGEX:
            assert re.fullmatch(guidance.text, text)
        case GuidanceKind.CHOICE:
            assert text in guidance.choices
        case GuidanceKind.GRAMMAR:
            assert re.fullmatch(r"[1-9]\d{0,3}(\+[1-9]\d{0,3})*", text)


class Served:
    """What guides want of a model."""

    def __init__(self, tokenizer: Tokenizer, vocab: int | None = None) -> None:
        self.tokenizer, self.vocab = tokenizer, vocab or tokenizer.vocab_size
        self.ends = tokenizer.eos_ids


BYTES = Served(ByteTokenizer(300))


@pytest.fixture(scope="module")
def tales() -> Served:
    folder = zoo.folder("tales-dense")
    assert folder is not None
    return Served(Tokenizer.load(folder))


@pytest_asyncio.fixture
async def guides() -> AsyncIterator[Guides]:
    made = Guides(LIMITS)
    yield made
    made.close()


async def constraint(guides: Guides, guidance: Guidance, model: Any = BYTES, **more: Any) -> Constraint:
    [made] = await guides.constraints(guidance, model, 1, **{"endless": False, **more})
    return made


def allowed(constraint: Constraint, ahead: Sequence[int] = ()) -> np.ndarray:
    """What may come next, or behind a guess, once that is known."""
    come(constraint)
    if ahead:
        constraint.consider(ahead)
        come(constraint)
    return constraint.allowed(ahead)


def come(constraint: Constraint) -> None:
    coming = constraint.look_ahead()
    if coming is not None:
        coming.result(30)
    assert constraint.look_ahead() is None and not constraint.awaits


def walk(constraint: Constraint, model: Served, seed: int, most: int = 1500) -> tuple[list[int], bool]:
    """What a model says that likes all tokens alike, and those that close something a bit better; whether it came to an
    end."""
    rng, ends, said = np.random.default_rng(seed), model.tokenizer.eos_ids, list[int]()
    closing = {i for i, piece in enumerate(model.tokenizer.pieces or ()) if piece in (b'"', b"}", b"]")} | ends
    for _ in range(most):
        choice = np.flatnonzero(members(allowed(constraint), model.vocab))
        assert len(choice), "a dead end"
        liked = [token for token in choice.tolist() if token in closing]
        token = int(rng.choice(liked if liked and rng.random() < 0.3 else choice))
        if token in ends:
            return said, True
        said.append(token)
        if constraint.push(token):
            return said, True
    return said, False


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("bytes_only", [True, False], ids=["bytes", "tales"])
async def test_whatever_is_said_has_the_form(name: str, bytes_only: bool, guides: Guides, tales: Served) -> None:
    model, ended = (BYTES if bytes_only else tales), 0
    for seed in range(6):
        said, complete = walk(await constraint(guides, FORMS[name], model), model, seed)
        ended += complete
        if complete:
            assert_has_form(b"".join(model.tokenizer.pieces[t] for t in said).decode(), FORMS[name])
    assert ended >= 3, "hardly any comes to its end"


@pytest.mark.parametrize("name", FORMS)
async def test_what_has_the_form_can_be_said(name: str, guides: Guides) -> None:
    texts = {
        "object": '{"a": [1, {"b": null}], "ü": "\\n🐻"}',
        "schema": '{"name": "Rotkäppchen", "age": 9, "tags": ["wolf"], "home": {"x": -1.5e3}}',
        "anything": '[1, 2, {"a": true}]',
        "regex": "POST /wolf?q=12",
        "choice": 'a "quote"\n\\ ü 🐻',
        "grammar": "1+22+333",
    }
    made = await constraint(guides, FORMS[name])
    for byte in texts[name].encode()[:-1]:
        assert members(allowed(made), 300)[byte] and not made.push(byte)
    made.push(texts[name].encode()[-1])
    assert members(allowed(made), 300)[256], "it may end here"


async def test_a_guess_is_answered_as_if_it_had_been_said(guides: Guides) -> None:
    ahead, plain = [await constraint(guides, FORMS["schema"]) for _ in range(2)]
    text = b'{"name": "a", "age": 3'
    for count in range(len(text)):
        assert (allowed(ahead, tuple(text[:count])) == allowed(plain)).all()
        assert count == 0 or (allowed(ahead) != allowed(plain)).any(), "it is only a guess"
        plain.push(text[count])
    ahead.consider(b'{"nam' + b"x" * 3)
    come(ahead)
    assert len(ahead.fitting(b'{"nam' + b"x" * 3)) == 5, "what cannot come true is left out"
    assert not ahead.push(ord("{")) and ahead.fitting(b'"') == b"", "what followed a guess is forgotten"


async def test_an_endless_request_ends_only_where_nothing_else_may_follow(guides: Guides) -> None:
    made = await constraint(guides, form("regex", "a{2,3}"), endless=True)
    for _ in range(2):
        assert np.flatnonzero(members(allowed(made), 300)).tolist() == [ord("a")]
        assert not made.push(ord("a"))
    assert np.flatnonzero(members(allowed(made), 300)).tolist() == [ord("a")]
    assert made.push(ord("a"))


async def test_each_request_has_its_own_place_in_the_text(guides: Guides) -> None:
    first, second = await guides.constraints(form("regex", "ab+"), BYTES, 2, endless=False)  # type: ignore[arg-type]
    first.push(ord("a"))
    assert np.flatnonzero(members(allowed(second), 300)).tolist() == [ord("a")]


def chain(links: int) -> str:
    """A schema whose properties lie so deep in each other that compiling it takes more stack than a thread has."""
    defs = {f"a{i}": {"properties": {"a": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(links)}
    return json.dumps({"$ref": "#/$defs/a0", "$defs": {**defs, f"a{links}": {"type": "null"}}})


PATTERNS = json.dumps({"allOf": [{"type": "string", "pattern": f".*[{chr(97 + i)}].*"} for i in range(20)]})

BAD = {
    "empty": (form("regex", " "), "empty"),
    "regex": (form("regex", "(a"), "unclosed"),
    "look around": (form("regex", "(?=a)b"), "look-around"),
    "grammar": (form("grammar", "start: nobody"), "nobody"),
    "not JSON": (form("json_schema", "{"), "not JSON"),
    "half a pair": (form("json_schema", '{"const": "\\ud800"}'), "cannot be read"),
    "a number beyond doubles": (form("json_schema", '{"type": "number", "maximum": 1e400}'), "cannot be read"),
    "an integer beyond doubles": (
        form("json_schema", '{"type": "integer", "maximum": 1%s}' % ("0" * 400)),
        "cannot be read",
    ),
    "NaN": (form("json_schema", '{"minimum": NaN}'), "NaN"),
    "no schema": (form("json_schema", "[]"), "object"),
    "false": (form("json_schema", "false"), "nothing satisfies"),
    "no such type": (form("json_schema", '{"type": "strin"}'), "strin"),
    "not offered": (form("json_schema", '{"not": {}}'), "not"),
    "elsewhere": (form("json_schema", '{"$ref": "http://169.254.169.254/x"}'), "169.254"),
    "nested": (form("json_schema", '{"items":' * 40 + "{}" + "}" * 40), "32 deep"),
    "nested for ever": (form("json_schema", "[" * 30_000), "deep"),
    "long": (form("regex", "a" * 70_000), "65536"),
    "loop": (form("json_schema", '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}'), ""),
    "no choice": (form("choice"), "between 1 and 1024"),
    "choices": (form("choice", choices=["a"] * 1025), "1025"),
    "empty choice": (form("choice", choices=["a", ""]), "empty"),
    "NUL": (form("regex", "a\0"), "NUL"),
}


async def refusal(guides: Guides, guidance: Guidance, model: Served = BYTES) -> InvalidValue:
    with pytest.raises(InvalidValue) as said:
        check_guidance(guidance, LIMITS)
        await constraint(guides, guidance, model)
    return said.value


@pytest.mark.parametrize("name", BAD)
async def test_a_form_that_cannot_be_used_is_refused(name: str, guides: Guides) -> None:
    guidance, words = BAD[name]
    said = await refusal(guides, guidance)
    assert said.param == "here" and words in said.message
    assert len(said.message) < 300 and said.message.isprintable() and said.message.isascii()


async def test_the_deepest_schema_that_fits_is_no_matter(guides: Guides) -> None:
    assert await constraint(guides, form("json_schema", chain(1100)))


def test_what_kills_the_compiler_kills_nothing_else() -> None:
    sandbox = Sandbox(Limits(guidance_seconds=10.0))
    try:
        defs = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(60_000)}
        schema = json.dumps({"$ref": "#/$defs/a0", "$defs": {**defs, "a60000": {}}})
        assert "too deep" in str(sandbox.verdict(LLMatcher.grammar_from_json_schema(schema)))
        assert sandbox.verdict(LLMatcher.grammar_from_regex("a")) is None
    finally:
        sandbox.close()


@pytest.mark.parametrize("command", ["/nowhere/python", "/bin/true"], ids=["no process", "no answer"])
def test_where_nothing_can_be_tried_out_it_is_nobodys_mistake(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, grammar = Sandbox(Limits(guidance_seconds=10.0, retry_after_seconds=30)), LLMatcher.grammar_from_regex("a")
    try:
        with monkeypatch.context() as broken, pytest.raises(FormsUntried) as refused:
            broken.setattr("server.guidance.sandbox.sys.executable", command)
            sandbox.verdict(grammar)
        assert refused.value.retry_after == 30 and command not in refused.value.message
        assert sandbox.verdict(grammar) is None, "it is begun anew"
    finally:
        sandbox.close()


def test_forms_are_tried_out_beside_a_thousand_connections() -> None:
    most, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < 2048:
        pytest.skip("so many descriptors are not to be had here")
    sandbox = Sandbox(Limits(guidance_seconds=10.0))
    with contextlib.ExitStack() as stack:
        stack.callback(sandbox.close)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (most, allowed))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, 2048), allowed))
        while stack.enter_context(Path("/dev/null").open("rb")).fileno() < 1024:
            pass
        assert sandbox.verdict(LLMatcher.grammar_from_regex("a")) is None


async def test_what_takes_for_ever_is_ended() -> None:
    guides = Guides(Limits(guidance_seconds=0.3))
    try:
        said = await refusal(guides, form("json_schema", PATTERNS))
        assert "too long" in said.message
    finally:
        guides.close()


async def test_a_thousand_forms_leave_no_more_than_a_few(guides: Guides) -> None:
    for number in range(REMEMBERED * 3):
        await constraint(guides, form("choice", choices=[f"word {number}"]))
    [known] = guides._known.values()
    assert len(known._matchers) == REMEMBERED


async def test_the_process_of_the_trials_does_not_stay(guides: Guides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.guidance.guides.IDLE_SECONDS", 0.05)
    await constraint(guides, FORMS["regex"])
    process = guides._sandbox._process
    assert process is not None and process.poll() is None
    while process.poll() is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert process.poll() is not None
    await constraint(guides, form("regex", "again"))
