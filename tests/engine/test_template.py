"""Chat templates: the same text as transformers renders, safe errors, bounded work."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine import template as module
from engine.errors import ConfigError
from engine.template import ChatTemplate, TemplateError

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and ns.last < 0 %}
        {%- set ns.last = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if ns.last < 0 %}
    {{- raise_exception('No user message found.') }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ["system", "user"] %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content|trim) + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content is defined and loop.index0 > ns.last %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {% generation %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}
            {%- for name, value in call.function.arguments|items %}
                {{- '<parameter=' + name + '>\\n' }}
                {{- value | tojson if value is mapping or value is not string else value }}
                {{- '\\n</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}
        {%- endfor %}
        {% endgeneration %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.previtem and loop.previtem.role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {{- raise_exception('Unexpected message role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

BLOCKS = """\
{% for message in messages %}
    {% if message['role'] == 'skip' %}
        {% continue %}
    {% endif %}
{{ bos_token }}[{{ message['role']|upper }}]
    {% for part in message.content if part.type == 'text' %}
{{ loop.index }}/{{ loop.length }}: {{ part.text }}{{ eos_token if loop.last else '' }}
    {% endfor %}
    {% if loop.index >= 5 %}
        {% break %}
    {% endif %}
{% endfor %}
{{ dict(a=1)|tojson }} {{ {'b': 2, 'a': 1}|tojson(indent=2) }}
"""

MACROS = """\
{%- macro show(value, depth=0) -%}
    {%- if value is mapping -%}
        {%- for key in value|sort -%}{{ depth }}{{ key }}:{{ show(value[key], depth + 1) }}{%- endfor -%}
    {%- else -%}{{ value }};{%- endif -%}
{%- endmacro -%}
{%- for message in messages recursive -%}
    {{- loop.depth }} {{ show(message) }}
    {%- if message.children is defined %}{{ loop(message.children) }}{% endif -%}
{%- endfor -%}
{{- strftime_now('%Y')|length }}{{ tools is none }}{{ documents is none }}{{ range(3)|list }}{{ "%s!" % 'é' }}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read",
            "description": "Reads <a> & 'é' \u2028",
            "parameters": {
                "type": "object",
                "properties": {"z": {"type": "string"}, "a": {"type": "integer"}},
            },
        },
    }
]
CALL = {"function": {"name": "read", "arguments": {"path": "src/é.py", "n": 3, "x": {"b": 1, "a": [2]}}}}
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "  be brief "},
    {"role": "user", "content": "hi {{ 7 * 7 }} {% raw %} <b>&amp;</b>"},
    {"role": "assistant", "content": "ok", "reasoning_content": "hm", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "one"},
    {"role": "tool", "content": "two"},
    {"role": "assistant", "content": "done"},
]
PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}],
    },
    {"role": "skip", "content": []},
    *[{"role": "user", "content": [{"type": "text", "text": str(n)}]} for n in range(6)],
]
TREE = [{"role": "user", "content": "x", "children": [{"role": "a", "content": {"k": 1}}]}]
TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}


def load(folder: Path, source: str, **config: Any) -> ChatTemplate:
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ChatTemplate.load(folder, now=lambda: datetime(2026, 11, 23, 20, 0))


def oracle(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    rendered, _ = utils.render_jinja_template([messages], chat_template=source, **options)
    return str(rendered[0])


class TestAgreesWithTransformers:
    @pytest.mark.parametrize("tools", [None, [], TOOLS])
    @pytest.mark.parametrize("prompt", [True, False])
    @pytest.mark.parametrize("extra", [{}, {"enable_thinking": False}])
    def test_chatml_with_tools(
        self, tmp_path: Path, tools: list[dict[str, Any]] | None, prompt: bool, extra: dict[str, Any]
    ) -> None:
        ours = load(tmp_path, CHATML).render(CHAT, tools, prompt, **extra)
        assert ours == oracle(CHATML, CHAT, tools=tools, add_generation_prompt=prompt, **extra)
        assert "\u00e9" in ours

    def test_blocks_loop_controls_and_special_tokens(self, tmp_path: Path) -> None:
        ours = load(tmp_path, BLOCKS, **TOKENS).render(PARTS, add_generation_prompt=False)
        assert ours == oracle(BLOCKS, PARTS, bos_token="<s>", eos_token="</s>")
        assert "2/2: b</s>" in ours

    def test_macros_recursion_and_globals(self, tmp_path: Path) -> None:
        assert load(tmp_path, MACROS).render(TREE) == oracle(MACROS, TREE)

    def test_the_clock_is_the_caller_s(self, tmp_path: Path) -> None:
        assert load(tmp_path, "{{ strftime_now('%d %b %Y') }}").render([]) == "23 Nov 2026"

    def test_whole_apply_chat_template(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        from tokenizers import Tokenizer, models

        backend = Tokenizer(models.BPE())
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        for source, chat in ((CHATML, CHAT), (BLOCKS, PARTS), (MACROS, TREE)):
            ours = load(tmp_path, source, **TOKENS).render(chat, TOOLS, True)
            expected = theirs.apply_chat_template(
                chat, TOOLS, chat_template=source, tokenize=False, add_generation_prompt=True
            )
            assert ours == expected


class TestLoading:
    def test_string_in_tokenizer_config(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x{{ messages|length }}"}))
        assert ChatTemplate.load(tmp_path).render([{"role": "user"}]) == "x1"

    def test_named_templates(self, tmp_path: Path) -> None:
        named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
        chat = ChatTemplate.load(tmp_path)
        assert (chat.render([]), chat.render([], TOOLS)) == ("plain", "tools")

    def test_the_file_wins(self, tmp_path: Path) -> None:
        assert load(tmp_path, "file", chat_template="config").render([]) == "file"

    @pytest.mark.parametrize("value", [None, 3, [{"name": "x"}], []])
    def test_no_usable_template(self, tmp_path: Path, value: object) -> None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
        with pytest.raises(ConfigError, match="template"):
            ChatTemplate.load(tmp_path)

    def test_syntax_error_names_the_line(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="line 2"):
            load(tmp_path, "a\n{% if %}")


class TestErrors:
    def test_the_template_s_own_words_and_the_message(self, tmp_path: Path) -> None:
        chat = [{"role": "user", "content": "a"}, {"role": "wizard", "content": "b"}]
        with pytest.raises(TemplateError, match=r"messages\[1\].*Unexpected message role wizard") as caught:
            load(tmp_path, CHATML).render(chat)
        assert caught.value.message_index == 1

    def test_wrong_shape_names_the_message_and_no_internals(self, tmp_path: Path) -> None:
        call = {"function": {"name": "read", "arguments": "not an object"}}
        chat = [CHAT[1], {"role": "assistant", "content": "", "tool_calls": [call]}]
        with pytest.raises(TemplateError, match=r"messages\[1\].*TypeError") as caught:
            load(tmp_path, CHATML).render(chat)
        assert "not an object" not in str(caught.value)

    def test_missing_field(self, tmp_path: Path) -> None:
        with pytest.raises(TemplateError, match=r"messages\[0\].*no attribute 'a'"):
            load(tmp_path, "{{ messages[0].a.b }}").render([{"role": "user"}])

    def test_long_reasons_are_cut(self, tmp_path: Path) -> None:
        with pytest.raises(TemplateError) as caught:
            load(tmp_path, "{{ raise_exception(messages[0].content) }}").render([{"content": "x" * 5000}])
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, Path("x")])
    def test_only_plain_data_goes_in(self, tmp_path: Path, value: object) -> None:
        with pytest.raises(TemplateError, match=r"messages\[0\]\.content is not plain JSON"):
            load(tmp_path, "x").render([{"content": value}])

    def test_deep_nesting(self, tmp_path: Path) -> None:
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        with pytest.raises(TemplateError, match="nested too deeply"):
            load(tmp_path, "x").render([{"content": deep}])

    def test_the_caller_s_messages_stay_as_they_are(self, tmp_path: Path) -> None:
        chat = [{"content": "a", "tags": ["x"]}]
        with pytest.raises(TemplateError):
            load(tmp_path, "{{ messages[0].tags.append('y') }}").render(chat)
        assert chat == [{"content": "a", "tags": ["x"]}]


class TestBounds:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_CHARACTERS", 10_000)
        monkeypatch.setattr(module, "MAX_WORK", 20_000)

    @pytest.mark.parametrize(
        "source",
        [
            "{{ messages.__class__.__mro__ }}",
            "{{ ''.__class__.__base__.__subclasses__() }}",
            "{{ raise_exception.__globals__ }}",
            "{{ dict.__call__.__globals__ }}",
            "{{ strftime_now.__globals__ }}",
            "{{ lipsum.__globals__ }}",
            "{{ cycler.__init__.__globals__ }}",
            "{{ messages|attr('__class__') }}",
            "{{ '{0.__class__}'.format(messages) }}",
            "{{ ''|attr('format')|attr('__self__') }}",
            "{% set _ = messages.append(1) %}",
            "{{ self.__init__ }}",
        ],
    )
    def test_python_is_out_of_reach(self, tmp_path: Path, source: str) -> None:
        try:
            text = load(tmp_path, source).render([{"role": "user", "content": ""}])
        except TemplateError as error:
            assert "0x" not in str(error)
        else:
            assert text == ""

    @pytest.mark.parametrize(
        "source",
        [
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
            "{% for a in range(99999999) %}{% endfor %}",
            "{% for a in range(9999) %}0123456789{% endfor %}",
            "{% for c in messages[0].content %}{% for d in messages[0].content %}{% endfor %}{% endfor %}",
        ],
    )
    def test_loops_calls_and_length_end(self, tmp_path: Path, source: str) -> None:
        with pytest.raises(TemplateError):
            load(tmp_path, source).render([{"role": "user", "content": "x" * 1000}])

    def test_content_is_never_a_template(self, tmp_path: Path) -> None:
        hostile = "{{ ''.__class__ }}{% for i in range(10**9) %}x{% endfor %}{#"
        assert load(tmp_path, "{{ messages[0].content }}").render([{"content": hostile}]) == hostile
