"""GET /metrics: the numbers agree with what was done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support import stand_ins as serving
from tokenspeed.scheduler import TRANSITIONS


def samples(server: Any) -> dict[str, float]:
    """All samples, by name and labels, through Prometheus' own parser."""
    response = httpx.get(f"{server.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


@pytest.fixture
def quiet() -> Iterator[Any]:
    """A server without overlap, so that every step is known."""
    with serving.running_server(serving.small_config(overlap_depth=0)) as server:
        yield server


def test_counts_of_two_equal_requests(quiet: Any) -> None:
    for _ in range(2):
        body = {"prompt": "0123456789", "max_tokens": 6, "ignore_eos": True}
        assert httpx.post(f"{quiet.url}/v1/completions", json=body).status_code == 200
    seen = samples(quiet)
    expected = {
        "tokenspeed_prompt_tokens_total": 20,
        "tokenspeed_generation_tokens_total": 12,
        "tokenspeed_request_success_total{finished_reason=length}": 2,
        "tokenspeed_prefix_cache_queries_total": 20,
        "tokenspeed_prefix_cache_hits_total": 8,  # two full blocks of four
        "tokenspeed_scheduler_steps_total": 12,
        "tokenspeed_scheduled_tokens_total": 10 + 5 + 2 + 5,
        "tokenspeed_num_retractions_total": 0,
        "tokenspeed_time_to_first_token_seconds_count": 2,
        "tokenspeed_inter_token_latency_seconds_count": 10,
        "tokenspeed_e2e_request_latency_seconds_count": 2,
        "tokenspeed_request_queue_time_seconds_count": 2,
        "tokenspeed_num_requests_running": 0,
        "tokenspeed_num_requests_waiting": 0,
        "tokenspeed_num_requests_live": 0,
        "tokenspeed_kv_cache_usage_ratio": 0,
        "tokenspeed_kv_cache_blocks{state=held}": 0,
    }
    assert {name: seen[name] for name in expected} == expected
    assert sum(seen[f"tokenspeed_kv_cache_blocks{{state={state}}}"] for state in ("free", "cached", "held")) == 256


def test_every_transition_of_the_specification_is_counted(quiet: Any) -> None:
    httpx.post(f"{quiet.url}/v1/completions", json={"prompt": "0123456789", "max_tokens": 6})
    seen = samples(quiet)
    counts = {name: seen[f"tokenspeed_scheduler_transitions_total{{transition={name}}}"] for name in TRANSITIONS}
    assert (counts["submit"], counts["admit"], counts["finish"], counts["recycle"]) == (1, 1, 1, 1)
    assert counts["launch"] == counts["retire"] == seen["tokenspeed_scheduler_steps_total"]


def test_levels_while_a_request_runs_and_another_waits() -> None:
    with serving.running_server(serving.small_config(max_running=1)) as server, httpx.Client() as client:
        server.runner.hold()
        with (
            client.stream("POST", f"{server.url}/v1/completions", json={"prompt": "abcdefgh", "stream": True}),
            client.stream("POST", f"{server.url}/v1/completions", json={"prompt": "abcdefgh", "stream": True}),
        ):
            server.wait_until("tokenspeed_num_requests_running", 1)
            server.wait_until("tokenspeed_num_requests_waiting", 1)
            seen = samples(server)
            held = seen["tokenspeed_kv_cache_blocks{state=held}"]
            assert held >= 2
            assert seen["tokenspeed_kv_cache_usage_ratio"] == held / 256
            server.runner.release()


def test_aborted_and_failed_requests_are_counted(server: Any) -> None:
    server.runner.hold()
    with httpx.stream("POST", f"{server.url}/v1/completions", json={"prompt": "abc", "stream": True}):
        server.wait_until("tokenspeed_num_requests_running", 1)
    server.wait_until('tokenspeed_request_success_total{finished_reason="abort"}', 1)

    def fail(plan: Any) -> None:
        raise RuntimeError("broken")

    server.runner.before_step = fail
    server.runner.release()
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "abc"})
    assert samples(server)["tokenspeed_request_success_total{finished_reason=error}"] == 1


def test_before_the_model_is_loaded(server: Any) -> None:
    engine, server.service.engine = server.service.engine, None
    seen = samples(server)
    server.service.engine = engine
    assert seen["tokenspeed_generation_tokens_total"] == 0
