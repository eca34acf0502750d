"""The page: one file without a network, every number the JSON's, nothing of it markup."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest

from proxy.bench.pack.page import page
from proxy.bench.pack.report import report
from proxy.bench.pack.vram import Vram
from tests.proxy.bench.pack.test_report import FULL_SPEED, PACKED, PLAN, measured


class Read(HTMLParser):
    """(path, value, shown) of everything that says where it is from; tags that were opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self.shown: list[tuple[str, str]] = []
        self.spans: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [str(given[name]) for name in ("src", "href", "xlink:href", "action") if name in given]
        if "data-path" in given:
            self.numbers.append((str(given["data-path"]), str(given["data-value"])))
            if tag == "span":
                self.spans.append(str(given["data-path"]))
        if tag not in ("meta", "br", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "span" and len(self.shown) < len(self.spans):
            self.shown.append((self.spans[-1], data))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("circle", "meta"):
            return
        assert self.open.pop() == tag, f"{tag} closes what was not opened"


def read(text: str) -> Read:
    found = Read()
    found.feed(text)
    found.close()
    return found


def at(data: Any, path: str) -> Any:
    keys = path.split("/")
    while keys:
        if isinstance(data, list):
            data = data[int(keys.pop(0))]
            continue
        for length in range(1, len(keys) + 1):  # a mode has a slash in its name
            if "/".join(keys[:length]) in data:
                data, keys = data["/".join(keys[:length])], keys[length:]
                break
        else:
            raise KeyError(path)
    return data


def test_its_numbers_are_the_jsons() -> None:
    plain = json.loads(json.dumps(report(measured("plain", FULL_SPEED, PACKED), PLAN, "test").plain()))
    found = read(page(plain))
    assert len(found.numbers) > 60
    for path, value in found.numbers:
        assert json.loads(value) == at(plain["data"], path), path
    assert len(found.shown) == len(found.spans) > 40
    for path, text in found.shown:
        scale: float = 100 if path.split("/")[-2] in ("acceptance", "valid", "passed") else 1
        scale = {"kv": {"bytes": 1 / 1024}, "vram": {"allocated": 2.0**-20, "reserved": 2.0**-20}}.get(
            path.split("/")[0], {}
        ).get(path.split("/")[-1], scale)
        assert float(text) == pytest.approx(scale * at(plain["data"], path), rel=0.006), path
    assert any(path.endswith("/high") for path, _ in found.shown)
    paths = {path for path, _ in found.numbers}
    for mode in ("plain", FULL_SPEED, PACKED):
        assert f"modes/{mode}/quality/seconds" in paths and f"modes/{mode}/quality/passed/value" in paths
        for part in ("decode", "prefill"):
            assert {f"sweep/{mode}/{i}/figures/{part}/value" for i in (0, 1)} <= paths
    assert {f"sweep/{FULL_SPEED}/{i}/figures/acceptance/value" for i in (0, 1)} <= paths
    assert plain["data"]["recommendation"]["words"].split(".")[0] in page(plain)


def test_memory_of_a_device_stands_there_where_it_was_measured() -> None:
    made = measured("plain", FULL_SPEED)
    assert "VRAM" not in page(report(made, PLAN, "test").plain())
    made.vram = {"plain": Vram(412_876_800, 536_870_912)}
    text = page(report(made, PLAN, "test").plain())
    assert "VRAM MiB, allocated" in text and ">394<" in text and ">512<" in text
    assert ("vram/plain/allocated", "412876800") in read(text).numbers


def test_it_needs_no_network_and_runs_nothing() -> None:
    text = page(report(measured("plain", FULL_SPEED), PLAN, "test").plain())
    found = read(text)
    assert found.links == [] and not found.tags & {"script", "link", "img", "iframe", "object"}
    assert "url(" not in text and "@import" not in text and "http" not in text
    assert found.open == [], "every element is closed"
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in text


def test_names_are_no_markup() -> None:
    made = measured("plain")
    made.about["note"] = "<script>alert(1)</script>"
    text = page(report(made, PLAN, "<img src=x>").plain())
    plain = json.loads(json.dumps(report(made, PLAN, "test").plain()))
    plain["data"]["recommendation"] |= {"words": "<b>bold</b>", "mode": "<u>"}
    plain["data"]["recommendation"]["verdicts"][0] |= {"against": ["<s>"], "mode": "<q>"}
    assert not {"b", "u", "s", "q"} & read(page(plain)).tags
    assert "<script" not in text and "<img" not in text and "<i>evil" not in text
    assert "&lt;i&gt;evil&lt;/i&gt;" in text


def test_a_stopped_run_says_so() -> None:
    made = measured("plain")
    made.stopped = True
    assert "Stopped early" in page(report(made, PLAN, "test").plain())
    assert "Stopped early" not in page(report(measured("plain"), PLAN, "test").plain())
