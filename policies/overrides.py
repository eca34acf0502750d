"""Which policy a request is served by: the file's, or that with the first override that matches it.

Must not: look into a message, or let a client disarm the guard unless the file says so.
Invariant: a client gets by name only what is there to be asked for (`Override.by_header`); quick settings
(configuration, flags) win over the file and all of its overrides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from policies.policy import Policy
from policies.rule_file import Override, PolicyFile, shipped
from policies.rules import any_matches

HEADER = "x-specguard-policy"
ROUTES = ("openai.chat", "openai.responses", "anthropic.messages")


class PolicyRefused(Exception):
    """A client asked for a policy that it cannot have; the message is for the client. known: is there one at all?"""

    def __init__(self, message: str, known: bool) -> None:
        super().__init__(message)
        self.known = known


@dataclass(frozen=True, slots=True)
class Traits:
    """What overrides look at. models: the names that the model answers to in this request; route: the API, such as
    `openai.chat`; tools: names of the declared ones; headers: names in small letters."""

    models: tuple[str, ...]
    route: str
    tools: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Overrides:
    """Of one policy file. quick: settings that win over everything in it."""

    overrides: tuple[Override, ...] = ()
    observe_by_header: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)

    def choose(self, base: Policy, traits: Traits) -> Policy:
        """The policy for one request. Raises PolicyRefused for a header that names what it must not."""
        asked = traits.headers.get(HEADER, "")
        if not asked:
            found = next((each for each in self.overrides if _matches(each, traits)), None)
            return base if found is None else self.apply(base, found)
        named = next((each for each in self.overrides if each.name == asked), None)
        if named is None:
            known = ", ".join(each.name for each in self.overrides if each.by_header) or "none is configured for that"
            raise PolicyRefused(f"{HEADER}: there is no policy of this name; known: {known}", known=False)
        if not named.by_header:
            raise PolicyRefused(
                f"{HEADER}: policy {asked!r} holds for the requests that it matches, and clients may not ask for it "
                "(by_header in the policy file); leave the header out",
                known=True,
            )
        policy = self.apply(base, named)
        if policy.action == "observe" and base.action != "observe" and not self.observe_by_header:
            raise PolicyRefused(
                f"{HEADER}: policy {asked!r} only observes, which the policy file does not let clients choose "
                "(observe_by_header); leave the header out",
                known=True,
            )
        return policy

    def apply(self, base: Policy, override: Override) -> Policy:
        """The base with what the override has written, field by field."""
        settings = {**(override.settings or {}), **self.quick}
        return replace(base, **settings, rules=(*override.rules, *base.rules), override=override.name)


def effective(file: PolicyFile | None, quick: Mapping[str, Any]) -> tuple[Policy, Overrides]:
    """The policy of a file (None = the shipped one) with quick settings on top, and its overrides."""
    if file is None:
        return replace(Policy(), **quick), Overrides(quick=dict(quick))
    rules = (*file.rules, *shipped().rules) if file.shipped_rules else file.rules
    policy = replace(Policy(), **{**file.settings, **quick}, rules=rules)
    return policy, Overrides(file.overrides, file.observe_by_header, dict(quick))


def unknown_routes(overrides: Sequence[Override]) -> list[tuple[Override, str]]:
    """Route globs that no API answers to."""
    return [
        (override, glob)
        for override in overrides
        for glob in override.routes
        if not any(any_matches((glob,), route) for route in ROUTES)
    ]


def _matches(override: Override, traits: Traits) -> bool:
    return (
        not override.by_name_only
        and any(any_matches(override.models, model) for model in traits.models)
        and any_matches(override.routes, traits.route)
        and (not override.tools or any(any_matches(override.tools, tool) for tool in traits.tools))
        and all(
            name in traits.headers and any_matches((glob,), traits.headers[name]) for name, glob in override.headers
        )
    )
