"""The chart rendered by Helm itself and held against Kubernetes' own schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="make test-containers installs it")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

CHART = Path(__file__).parents[2] / "docker" / "chart"
KUBERNETES = "1.31"
# Defined by operators, not by Kubernetes: no schema of theirs is at hand.
CUSTOM = ("ScaledObject", "ServiceMonitor")
EVERYTHING = {
    "model": {
        "replicas": 2,
        "args": ["--max-model-len", "8192"],
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "autoscaling": {"enabled": True},
        "weights": {"tokenSecret": "hub"},
    },
    "gateway": {
        "args": ["--max-pages", "50"],
        "env": {"DSOCR_KEEP_SECONDS": "60"},
        "apiKeysSecret": "keys",
        "databaseSecret": "database",
        "storage": "s3://bucket",
        "autoscaling": {"enabled": True},
    },
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
    "serviceMonitor": {"enabled": True},
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="try", namespace="ocr")
    return [
        document
        for name, text in files.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def values_of(name: str) -> dict[str, Any]:
    if name == "everything":
        return EVERYTHING
    return yaml.safe_load((CHART / name).read_text()) if name else {}


@pytest.fixture(params=["", "values-8gpu.yaml", "values-cpu.yaml", "everything"])
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered(values_of(request.param))


def test_every_document_is_what_kubernetes_takes(documents):
    assert len(documents) >= 6
    for document in documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_pods_run_without_rights_and_are_probed(documents):
    deployments = [d for d in documents if d["kind"] == "Deployment"]
    assert len(deployments) == 2
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["livenessProbe"] and container["resources"]["limits"]["memory"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_helm_finds_nothing_to_complain_of():
    findings = helm.lint(CHART)
    errors = [m for m in str(findings).split("\n") if "ERROR" in m]
    assert not errors, findings


def test_the_gateway_finds_the_model(documents):
    services = {d["metadata"]["name"] for d in documents if d["kind"] == "Service"}
    (gateway,) = (
        d for d in documents if d["kind"] == "Deployment" and "gateway" in d["metadata"]["name"]
    )
    arguments = gateway["spec"]["template"]["spec"]["containers"][0]["args"]
    server = arguments[arguments.index("--server") + 1]
    assert server.removeprefix("dns+http://").partition(":")[0] in services
