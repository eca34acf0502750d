"""The interface: both backends honour it, and every error of it has a status in both APIs."""

from __future__ import annotations

import inspect

import pytest

from proxy.backends import base
from proxy.backends.base import Backend, BackendError, ContextTooLong, Generation
from proxy.backends.builtin import BuiltinBackend
from proxy.errors import KINDS
from tests.proxy.scripted import ScriptedBackend, ScriptedGeneration


def methods(protocol: type) -> dict[str, inspect.Signature]:
    found = inspect.getmembers(protocol, inspect.isfunction)
    return {name: inspect.signature(f) for name, f in found if not name.startswith("_")}


@pytest.mark.parametrize("implementation", [BuiltinBackend, ScriptedBackend])
def test_backends_have_the_methods_of_the_interface(implementation: type) -> None:
    for name, wanted in methods(Backend).items():
        offered = inspect.signature(getattr(implementation, name))
        assert list(offered.parameters) == list(wanted.parameters), name
        assert inspect.iscoroutinefunction(getattr(implementation, name)), name


def test_the_scripted_generation_has_the_methods_of_the_interface() -> None:
    for name, wanted in methods(Generation).items():
        assert list(inspect.signature(getattr(ScriptedGeneration, name)).parameters) == list(wanted.parameters), name


def test_every_backend_error_has_a_status() -> None:
    errors = [e for e in vars(base).values() if isinstance(e, type) and issubclass(e, BackendError)]
    assert len(errors) >= 4
    assert {e.kind for e in errors} <= set(KINDS)


def test_an_overflow_says_both_numbers() -> None:
    error = ContextTooLong(9000, 8192)
    assert (error.tokens, error.limit) == (9000, 8192)
    assert str(error) == "prompt is too long: 9000 tokens > 8192 maximum"
