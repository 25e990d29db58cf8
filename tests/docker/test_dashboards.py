"""Every metric that a dashboard or an alert names is one that is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.service.conftest import serve
from vllm_dsocr.fleet.routing import BalancedEngine
from vllm_dsocr.server.gateway import create_gateway
from vllm_dsocr.server.settings import Settings

DOCKER = Path(__file__).parents[2] / "docker"
RULES = DOCKER / "prometheus" / "alerts.yml"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "dsocr.json"
_NAME = re.compile(r"\b(?:dsocr_|vllm:)[a-z0-9_]+")
_PARTS = re.compile(r"_(?:bucket|sum|count|total)$")


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return shown + [rule["expr"] for group in groups for rule in group["rules"]]


def named(prefix: str) -> set[str]:
    found = {name for text in expressions() for name in _NAME.findall(text)}
    return {name for name in found if name.startswith(prefix)}


def test_the_services_own_metrics_are_there(tmp_path):
    settings = Settings(data=tmp_path, draw_processes=1)
    app = create_gateway(BalancedEngine([]), settings, CollectorRegistry())
    with serve(app) as url:
        text = httpx.get(f"{url}/metrics/").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert named("dsocr_")
    assert {_PARTS.sub("", name) for name in named("dsocr_")} <= families.keys()
    # A rate misses the first event of a series that begins with it.
    for name in ("dsocr_pages", "dsocr_page_retries", "dsocr_jobs"):
        assert families[name].samples


def test_vllms_metrics_are_defined_by_vllm():
    vllm = Path(find_spec("vllm").origin).parent
    source = "\n".join(path.read_text() for path in (vllm / "v1").rglob("*.py"))
    defined = set(re.findall(r'"(vllm:[a-z0-9_]+)"', source))
    missing = {n for n in named("vllm:") if n not in defined and _PARTS.sub("", n) not in defined}
    assert named("vllm:") and not missing


def test_prometheus_takes_the_rules():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_every_expression_of_the_dashboard(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    rules = [{"record": f"r{i}", "expr": text} for i, text in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
