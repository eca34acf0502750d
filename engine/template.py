"""The model's own chat template: messages and tools to the text that the model was trained on.

Must not: ship a template, repair messages, or let a template reach Python objects beyond plain JSON data.
Invariant: the text is what transformers' `apply_chat_template` renders from the same plain data, or
TemplateError.

A template is run in jinja2's immutable sandbox and bounded in loop rounds, calls and output length. Its
memory is not bounded otherwise: it comes with the weights and deserves about as much trust as they do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import ConfigError, EngineError
from engine.tokenizer import read_json, token_text

MAX_CHARACTERS = 16_000_000
MAX_WORK = 2_000_000
_CALL_WORK = 10  # a call costs about as much as ten loop rounds
_MAX_REASON = 300


class TemplateError(EngineError):
    """The template cannot render this conversation. The message may be shown to the client.

    message_index: which message was being read, where that is known.
    """

    def __init__(self, reason: str, message_index: int | None = None) -> None:
        where = "" if message_index is None else f" (reading messages[{message_index}])"
        super().__init__(f"the model's chat template cannot render this conversation{where}: {reason}")
        self.message_index = message_index


class _Refused(jinja2.TemplateError):
    """The template itself said no (`raise_exception`), or went over a bound: its words are meant for the
    caller."""


@dataclass(slots=True)
class _Run:
    """One rendering under way. messages: which dictionary is which message; reading: the one last looked
    at."""

    messages: dict[int, int]
    work: int = field(default_factory=lambda: MAX_WORK)
    reading: int | None = None

    def spend(self, work: int) -> None:
        self.work -= work
        if self.work < 0:
            raise _Refused("too many loop rounds and calls")


_run: ContextVar[_Run] = ContextVar("_run")


class _Environment(ImmutableSandboxedEnvironment):
    """Counts loop rounds and calls, and remembers which message a template looks at."""

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _run.get().spend(_CALL_WORK)
        return super().call(context, obj, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._note(obj)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._note(obj)
        return super().getitem(obj, argument)

    @staticmethod
    def _note(obj: Any) -> None:
        run = _run.get(None)  # constant expressions are evaluated while compiling
        if run is not None:
            run.reading = run.messages.get(id(obj), run.reading)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's tokens for training; here it renders what is inside."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainDict:
    """`dict(...)` for templates, without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


def _counted(iterable: Iterable[Any]) -> Iterator[Any]:
    run = _run.get()
    for item in iterable:
        run.spend(1)
        yield item


def _raise(message: object) -> None:
    raise _Refused(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment(now: Callable[[], datetime]) -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.filters["specguard_counted"] = _counted
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda layout: now().strftime(layout)
    environment.globals["dict"] = _PlainDict()
    return environment


def _compile(environment: _Environment, source: str) -> jinja2.Template:
    """Compiles with every loop's iterable counted."""
    tree = environment.parse(source)
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = nodes.Filter(loop.iter, "specguard_counted", [], [], None, None, lineno=loop.lineno)
    tree.set_environment(environment)
    code = environment.compile(tree, filename="chat_template")
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A compiled chat template. Safe to share between threads."""

    templates: Mapping[str, jinja2.Template]
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path | str, now: Callable[[], datetime] = datetime.now) -> ChatTemplate:
        """Reads chat_template.jinja, else `chat_template` of tokenizer_config.json (a string or a list of
        named ones).

        now: the clock of `strftime_now`. Raises ConfigError if there is no template or it does not compile.
        """
        folder = Path(folder)
        config = read_json(folder / "tokenizer_config.json")
        file = folder / "chat_template.jinja"
        value: object = config.get("chat_template")
        try:
            value = file.read_text(encoding="utf-8") if file.is_file() else value
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file.name}: cannot be read: {error}") from error
        special = {name: text for name in _SPECIAL if (text := token_text(config.get(name))) is not None}
        environment = _environment(now)
        try:
            templates = {name: _compile(environment, source) for name, source in _sources(value)}
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"chat template: line {error.lineno}: {error.message}") from error
        if not templates:
            raise ConfigError("the model's folder has no chat template")
        return cls(templates, special)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """The prompt's text. messages, tools, extra: plain JSON data, handed to the template unchanged.

        A named `tool_use` template is taken where tools are given. Raises TemplateError.
        """
        template = self.templates.get("tool_use") if tools is not None else None
        template = template or self.templates.get("default") or next(iter(self.templates.values()))
        plain_messages = _plain(messages, "messages")
        variables = {
            **self.special_tokens,
            **{name: _plain(value, name) for name, value in extra.items()},
            "messages": plain_messages,
            "tools": None if tools is None else _plain(tools, "tools"),
            "documents": _plain(extra.get("documents"), "documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        run = _Run({id(message): index for index, message in enumerate(plain_messages)})
        token = _run.set(run)
        try:
            return _join(template.generate(variables))
        except _Refused as error:
            raise TemplateError(_short(error), run.reading) from error
        except jinja2.UndefinedError as error:
            raise TemplateError(_short(error), run.reading) from error
        except jinja2.TemplateError as error:
            raise TemplateError("the template does something that is not allowed", run.reading) from error
        except RecursionError as error:
            raise TemplateError("it is nested too deeply", run.reading) from error
        except Exception as error:  # a template can make any expression fail; its text may hold internals
            raise TemplateError(f"it has an unexpected shape ({type(error).__name__})", run.reading) from error
        finally:
            _run.reset(token)


_SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def _sources(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield "default", value
    elif isinstance(value, list):
        for entry in value:
            if not isinstance(entry, dict) or not isinstance(entry.get("template"), str):
                raise ConfigError("tokenizer_config.json: chat_template: entries need `name` and `template`")
            yield str(entry.get("name")), entry["template"]
    elif value is not None:
        raise ConfigError("tokenizer_config.json: chat_template must be a string or a list")


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A fresh copy made of exact JSON types. Raises TemplateError for anything else: objects have methods."""
    if depth > 200:
        raise TemplateError(f"{where} is nested too deeply")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise TemplateError(f"{where} is not plain JSON data ({type(value).__name__})")


def _join(pieces: Iterable[str]) -> str:
    parts: list[str] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise _Refused(f"the text is longer than {MAX_CHARACTERS} characters")
        parts.append(piece)
    return "".join(parts)


def _short(error: jinja2.TemplateError) -> str:
    reason = error.message or type(error).__name__
    return reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + "..."
