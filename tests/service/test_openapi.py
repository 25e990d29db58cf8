"""Whatever a client makes of the published API, the service makes no mistake of its own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="make test-clients installs it")

EXAMPLES = 25  # of each operation


def test_no_request_is_a_mistake_of_the_server(service):
    api = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        _try(operation)


def _try(operation) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(case=operation.as_strategy())
    def run(case) -> None:
        answer = case.call(timeout=60)
        assert answer.status_code < 500, (operation.label, answer.text)

    run()
