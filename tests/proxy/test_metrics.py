"""Metrics as a scraper reads them: names by the rules, bounded labels, and numbers that are those of the requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from policies.breaker import Key, Record
from policies.modes import DecodeMode
from proxy.backends.base import Load
from proxy.conversation import ChatRequest, Message
from proxy.events import Failed, Finished, Started, TextDelta, ThinkingDelta, Timings, ToolCall, Usage
from proxy.incidents import Closure, Incident
from proxy.metrics import MOST_VALUES, Metrics, Present

BASE = Incident(**{f.name: "" for f in fields(Incident)})  # type: ignore[arg-type]
REQUEST = ChatRequest(api="openai.chat", model="m", messages=(Message("user", "go"),))
FINISHED = Finished(
    "tool_calls",
    Usage(100, 60, 40, 5, 7, 3),
    Timings(40, 10.0, 40, 200.0, 30, 24),
    "mtp+ngram/full",
    drafts={"mtp": (20, 15), "ngram": (10, 9)},
)


def values(metrics: Metrics) -> dict[str, float]:
    """Samples as written, `name{label="value"}`."""
    found = {}
    for family in text_string_to_metric_families(metrics.exposition("")[0].decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def made() -> Metrics:
    return Metrics("1.2.3", lambda: ["m", "alias"])


def test_a_response_in_numbers() -> None:
    metrics = made()
    meter = metrics.meter(REQUEST)
    for event in (Started(100, 60), ThinkingDelta("hm"), TextDelta("so"), ToolCall(0, "ls", "{}"), FINISHED):
        meter.saw(event)
    meter.ended("tool_calls")
    seen = values(metrics)
    expected: Mapping[str, float] = {
        'specguard_requests_total{api="openai.chat",model="m",outcome="tool_calls"}': 1,
        "specguard_prefill_tokens_total": 40,
        "specguard_cached_tokens_total": 60,
        "specguard_decode_tokens_total": 40,
        "specguard_discarded_tokens_total": 7,
        "specguard_filtered_tokens_total": 3,
        'specguard_draft_tokens_total{drafter="mtp"}': 20,
        'specguard_accepted_tokens_total{drafter="mtp"}': 15,
        'specguard_draft_tokens_total{drafter="ngram"}': 10,
        'specguard_accepted_tokens_total{drafter="ngram"}': 9,
        'specguard_tool_calls_total{result="sent"}': 1,
        'specguard_ttft_seconds_count{api="openai.chat"}': 1,
        'specguard_request_seconds_count{api="openai.chat"}': 1,
        "specguard_inter_token_seconds_count": 1,
        "specguard_inter_token_seconds_sum": 0.005,
        'specguard_build_info{version="1.2.3"}': 1,
    }
    assert {name: seen.get(name) for name in expected} == expected


def test_silence_and_failure_are_no_first_token() -> None:
    metrics = made()
    for event, outcome in ((Failed("internal", "x"), "failed"), (replace(FINISHED, drafts={}), "stop")):
        meter = metrics.meter(REQUEST)
        meter.saw(Started(10, 0))
        meter.saw(event)
        meter.ended(outcome)
    seen = values(metrics)
    assert not any(name.startswith("specguard_ttft_seconds_count") for name in seen)
    assert seen['specguard_requests_total{api="openai.chat",model="m",outcome="failed"}'] == 1


def test_incidents_fall_backs_and_refused_calls() -> None:
    metrics = made()
    trip = replace(BASE, detector="tool.schema", grade="fallback", action="rewind", mode_before="mtp/full")
    metrics.opened(replace(trip, mode_after="plain"))
    metrics.opened(replace(trip, action="repair", mode_after="mtp/full"))
    metrics.opened(replace(trip, action="none", mode_after="mtp/full"))  # observed: it was sent
    metrics.opened(replace(trip, detector="loop.period", action="end", mode_after="mtp/full"))
    metrics.closed(Closure("i", "recovered", "speculation", "certain", "stop", 250.0, 3, 5, 3, level="L1"))
    metrics.closed(Closure("i", "ended", "model", "likely", "stop", 0.0, 0, 5, 3))
    metrics.refused("unauthorized")
    seen = values(metrics)
    expected: Mapping[str, float] = {
        'specguard_incidents_total{action="rewind",detector="tool.schema",grade="fallback"}': 1,
        'specguard_incidents_total{action="end",detector="loop.period",grade="fallback"}': 1,
        'specguard_fallbacks_total{from="mtp/full",to="plain"}': 1,
        "specguard_fallback_seconds_sum": 0.25,
        "specguard_fallback_seconds_count": 1,
        'specguard_tool_calls_total{result="refused"}': 1,
        'specguard_tool_calls_total{result="mended"}': 1,
        'specguard_culprits_total{certainty="certain",culprit="speculation"}': 1,
        'specguard_refusals_total{kind="unauthorized"}': 1,
    }
    assert {name: seen.get(name) for name in expected} == expected


def test_the_present_is_asked_for_at_each_scrape() -> None:
    metrics, asked = made(), []
    key = Key("f00d", "mtp/full", 3, "qwen_xml")

    def present() -> Present:
        asked.append(1)
        records = {key: Record("open"), replace(key, bucket=0): Record("half_open"), replace(key, bucket=1): Record()}
        return Present(2, True, DecodeMode("mtp"), records, {"mtp/full": 4096}, {"weights": 10}, 3, 17, Load(99, 2, 1))

    metrics.show(present)
    assert not asked
    seen = values(metrics)
    values(metrics)
    assert len(asked) == 2
    expected: Mapping[str, float] = {
        "specguard_in_flight_requests": 2,
        "specguard_ready": 1,
        'specguard_engine_mode{mode="mtp/full"}': 1,
        'specguard_breaker_state{bucket="16-32k",mode="mtp/full"}': 2,
        'specguard_breaker_state{bucket="0-1k",mode="mtp/full"}': 1,
        'specguard_breaker_state{bucket="1-4k",mode="mtp/full"}': 0,
        'specguard_trust_ceiling_tokens{mode="mtp/full"}': 4096,
        'specguard_memory_bytes{part="weights"}': 10,
        "specguard_incidents_dropped_total": 3,
        "specguard_tasks": 17,
        "specguard_engine_steps_total": 99,
        "specguard_running_turns": 2,
        "specguard_waiting_requests": 1,
    }
    assert {name: seen.get(name) for name in expected} == expected


def test_nobody_outside_chooses_a_label() -> None:
    metrics = made()
    for number in range(500):
        meter = metrics.meter(replace(REQUEST, model=f"model-{number}"))
        meter.ended("stop")
        names = {"detector": f"own.{number}", "mode_before": f"a{number}", "mode_after": f"b{number}"}
        metrics.opened(replace(BASE, grade="fallback", action="rewind", **names))
    metrics.meter(replace(REQUEST, model="alias")).ended("stop")
    per_label: dict[tuple[str, str], set[str]] = {}
    for family in text_string_to_metric_families(metrics.exposition("")[0].decode()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                per_label.setdefault((family.name, label), set()).add(value)
    assert per_label["specguard_requests", "model"] == {"other", "alias"}
    assert max(len(found) for found in per_label.values()) <= MOST_VALUES + 1
    assert len(values(metrics)) < 500


def test_names_follow_the_rules() -> None:
    metrics = made()
    metrics.show(lambda: Present(0, True, DecodeMode(), {}, {}, {}, 0))
    meter = metrics.meter(REQUEST)
    meter.saw(FINISHED)
    meter.ended("stop")
    for family in text_string_to_metric_families(metrics.exposition("")[0].decode()):
        assert family.name.startswith(("specguard_", "process_"))
        counts = [s.name for s in family.samples if s.name.endswith("_total")]
        assert not counts or family.type == "counter"
        assert not any(unit in family.name for unit in ("_ms", "_mib", "_percent", "_millis"))


@pytest.mark.parametrize(("accept", "kind"), [("", "text/plain"), ("application/openmetrics-text", "application/open")])
def test_both_formats_are_spoken(accept: str, kind: str) -> None:
    metrics: Any = made()
    body, content_type = metrics.exposition(accept)
    assert content_type.startswith(kind)
    if "open" in kind:
        assert list(openmetrics(body.decode()))


def test_two_servers_count_apart() -> None:
    ours, other = made(), made()
    ours.refused("internal")
    assert 'specguard_refusals_total{kind="internal"}' not in values(other)
