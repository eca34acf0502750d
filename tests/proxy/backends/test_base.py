"""The interface: both backends honour it."""

from __future__ import annotations

import inspect

import pytest

from proxy.backends.base import Backend, Generation
from proxy.backends.builtin import BuiltinBackend
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
