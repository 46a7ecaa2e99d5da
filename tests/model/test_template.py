"""Chat templates that go on for ever, or write more than anybody can read."""

from __future__ import annotations

import sys
import time

import pytest

from model.template import ChatTemplate, within

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


def test_work_in_time_is_left_alone_and_the_trace_as_it_was() -> None:
    before = sys.gettrace()
    assert within(5, lambda: sum(range(10))) == 45
    with pytest.raises(TimeoutError):
        within(0.05, _for_ever)
    with pytest.raises(KeyError):
        within(5, lambda: {}["nothing"])
    assert sys.gettrace() is before


def _for_ever() -> None:
    while True:
        pass
