"""Chat templates that go on for ever, or write more than anybody can read."""

from __future__ import annotations

import time

import pytest

from model.template import ChatTemplate

ONE = [{"role": "user", "content": "hi"}]

MANY = "{% for i in range(99999) %}"
ENDLESS = {
    "loops": MANY + MANY + MANY + "{% endfor %}" * 3,
    "loops that write": MANY + MANY + "x{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a set": "{% set x %}" + MANY + MANY + "a{% endfor %}{% endfor %}{% endset %}{{ x }}",
    "repetition": "{{ 'x' * 10**9 }}",
    "repetition of a list": "{{ ([1] * 10**8) | length }}",
    "repetition twice": "{% set a = 'x' * 1000000 %}" + MANY + "{{ a }}{% endfor %}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "product of powers": "{{ (9 ** 16) ** 16 }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_ended(name: str) -> None:
    template, began = ChatTemplate(ENDLESS[name], {}), time.monotonic()
    with pytest.raises(ValueError, match="messages: the chat template refused them"):
        template.render(ONE)
    assert time.monotonic() - began < 10 * ChatTemplate.SECONDS
    with pytest.raises(ValueError, match="messages"):
        template.parts(ONE)


def test_a_template_of_many_parentheses_is_refused_on_loading() -> None:
    with pytest.raises(ValueError, match="chat template"):
        ChatTemplate("{{ " + "(" * 6000 + "1" + ")" * 6000 + " }}", {})


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("{{ 3 * 4 }}{{ 2 ** 10 }}", "121024"),
        ("{{ '-' * 3 }}{{ [1, 2] * 2 }}", "---[1, 2, 1, 2]"),
        ("{% for m in messages %}{{ m.content }}{% if not loop.last %},{% endif %}{% endfor %}", "hi"),
        ("{% for i in range(1000) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
    ],
)
def test_what_is_small_is_allowed(template: str, written: str) -> None:
    assert ChatTemplate(template, {}).render(ONE) == written


def test_a_long_conversation_is_not_a_loop() -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>\n{% endfor %}"
    messages = [{"role": "user", "content": "x" * 2000}] * 256
    assert len(ChatTemplate(template, {}).render(messages)) > 256 * 2000


def test_a_loop_knows_its_length_as_ever() -> None:
    template = "{% for i in [1, 2, 3] %}{{ loop.index }}/{{ loop.length }} {% else %}none{% endfor %}"
    assert ChatTemplate(template, {}).render(ONE) == "1/3 2/3 3/3 "
    template = "{% for i in nothing %}x{% else %}none{% endfor %}"
    assert ChatTemplate(template, {}).render(ONE) == "none"
