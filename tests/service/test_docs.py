"""docs/service.md says what there is. With DSOCR_WRITE_DOCS=1 its settings are written anew."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, generate_latest

from vllm_dsocr.fleet.replicas import Replicas
from vllm_dsocr.server.gateway import ReplicaMetrics
from vllm_dsocr.server.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "service.md"
PLACE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    rows = [
        f"| `{item.name}` | {shown(item.default)} | {item.metadata['about']} |"
        for item in fields(Settings)
    ]
    return "\n".join(["| setting | default | what |", "|---|---|---|", *rows, ""])


def shown(default) -> str:
    if isinstance(default, tuple):
        return ",".join(default) or "-"
    return f"{default:,}" if isinstance(default, int | float) else str(default) or "-"


def test_every_setting_is_there_with_its_default():
    text = PAGE.read_text()
    if os.environ.get("DSOCR_WRITE_DOCS"):
        PAGE.write_text(PLACE.sub(lambda _: settings_table(), text))
    assert PLACE.search(PAGE.read_text())[0] == settings_table()


def test_every_metric_is_there_and_no_other(service):
    told = httpx.get(f"{service.url}/metrics/").text
    told_names = re.findall(r"^# TYPE (dsocr_\w+)", told, re.MULTILINE)
    real = {name for name in told_names if not name.endswith("_created")}
    of_gateways = CollectorRegistry()
    of_gateways.register(ReplicaMetrics(Replicas([], None)))
    lines = generate_latest(of_gateways).decode()
    real |= set(re.findall(r"^# TYPE (dsocr_\w+)", lines, re.MULTILINE))
    assert set(re.findall(r"`(dsocr_\w+)", PAGE.read_text())) == real


def test_every_body_of_the_published_api_has_an_example(service):
    api = httpx.get(f"{service.url}/openapi.json").json()
    bodies = [
        content["schema"]["$ref"].rpartition("/")[2]
        for methods in api["paths"].values()
        for operation in methods.values()
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        if kind == "application/json"
    ]
    assert len(bodies) >= 5
    assert all(api["components"]["schemas"][name].get("examples") for name in bodies)


def test_routes_of_the_page_exist(service):
    paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
    named = set(re.findall(r"(?:GET|POST|PUT) (/[\w/{}]+)", PAGE.read_text()))
    assert len(named) > 4
    known = {re.sub(r"{\w+}", "{id}", path) for path in paths}
    assert {name for name in named if name not in known} == set()
