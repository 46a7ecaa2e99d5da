"""Chat templates that go on for ever, or write more than anybody can read."""

from __future__ import annotations

import time
import tracemalloc

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
def test_a_template_without_end_is_ended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatTemplate, "SECONDS", 0.2)
    template, began = ChatTemplate(ENDLESS[name], {}), time.monotonic()
    with pytest.raises(ValueError, match="messages: the chat template refused them"):
        template.render(ONE)
    assert time.monotonic() - began < 10 * ChatTemplate.SECONDS
    with pytest.raises(ValueError, match="messages"):
        template.parts(ONE)


BIG = "{% set a = 'x' * 1000000 %}"
NEST = "{% set ns = namespace(a='xx') %}"
LARGE = {
    "ljust": "{{ 'a'.ljust(2000000000) }}",
    "rjust": "{{ 'a'.rjust(2000000000, '-') }}",
    "center": "{{ 'a'.center(2000000000) }}",
    "zfill": "{{ 'a'.zfill(2000000000) }}",
    "expandtabs": "{{ 'a\tb'.expandtabs(2000000000) }}",
    "translate": BIG + "{{ a.translate({120: a}) }}",
    "to_bytes": "{{ (1).to_bytes(2000000000, 'big') }}",
    "replace": BIG + "{{ a.replace('x', a) }}",
    "replace nothing": BIG + "{{ a.replace('', a) }}",
    "join": BIG + "{{ a.join(a) }}",
    "join of few": BIG + "{{ ','.join([a] * 100000) }}",
    "format": "{{ '{:2000000000}'.format(1) }}",
    "format by argument": "{{ '{:{}}'.format(1, 2000000000) }}",
    "format many": BIG + "{{ ('{0}' * 10000).format(a) }}",
    "percent": "{{ '%2000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (2000000000, 1) }}",
    "percent many": BIG + "{{ '%s%s%s%s%s%s%s%s%s%s' % (a, a, a, a, a, a, a, a, a, a) }}",
    "filter center": "{{ 'a' | center(2000000000) }}",
    "filter center, mapped": "{{ ['a'] | map('center', 2000000000) | list }}",
    "filter format": "{{ '%2000000000d' | format(1) }}",
    "filter indent": "{{ 'a' | indent(2000000000, true) }}",
    "filter indent of lines": "{{ ('a\n' * 100000) | indent(100000) }}",
    "filter replace": BIG + "{{ a | replace('x', a) }}",
    "filter join": BIG + "{{ a | list | join(a) }}",
    "filter batch": "{{ [1] | batch(2000000000, 'x') | list }}",
    "filter wordwrap": BIG + "{{ a | wordwrap(1, true, a) }}",
    "filter tojson": BIG + "{{ ([a] * 100000) | tojson }}",
    "filter tojson, indent": BIG + "{{ ([1] * 100000) | tojson(indent=100000) }}",
    "filter string": BIG + "{{ ([a] * 100000) | string }}",
    "filter sum": "{{ ([[1] * 100000] * 100000) | sum(start=[]) }}",
    "written out": BIG + "{{ [a] * 100000 }}",
    "doubled text": NEST + "{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "doubled text by ~": NEST + "{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "doubled block": NEST
    + "{% for i in range(60) %}{% set b %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = b %}{% endfor %}",
    "doubled list": "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "lists of lists": NEST + "{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    "squares": "{% set ns = namespace(a=9) %}{% for i in range(60) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
    "filler": "{{ lipsum(1000000) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_nothing_large_is_made_before_it_is_refused(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="messages: the chat template refused them"):
            ChatTemplate(LARGE[name], {}).render(ONE)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("'a' ~ 1 ~ none ~ ['b']", "a1None['b']"),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("['a', 'b'] | map('upper') | join('-')", "A-B"),
        ("'a'.ljust(3) + '|'", "a  |"),
        ("'aXa'.replace('X', 'bc') | replace('b', '1')", "a1ca"),
        ("'{} {:>3}'.format('a', 7)", "a   7"),
        ("'%s-%02d' % ('a', 7)", "a-07"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("[1, 2] + [3]", "[1, 2, 3]"),
        ("[1, 2, 3] | sum", "6"),
        ("messages | selectattr('role', 'equalto', 'user') | list | length", "1"),
        ("messages[0] | items | list", "[('role', 'user'), ('content', 'hi')]"),
        ("7 * 6", "42"),
        ("'x' if bos_token is defined else 'none'", "none"),
        ("{'b': '<é>', 'a': [1]} | tojson", '{"b": "<é>", "a": [1]}'),
        ("{'b': 1} | tojson(indent=2)", '{\n  "b": 1\n}'),
        ("{'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true)", '{"a":2,"b":1}'),
    ],
)
def test_what_templates_do_is_as_ever(expression: str, written: str) -> None:
    assert ChatTemplate("{{ " + expression + " }}", {}).render(ONE) == written


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
