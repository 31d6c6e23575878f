"""The service keeps what its OpenAPI document promises, whatever is sent. RECSYS_FUZZ_CASES says how often."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from http_servers import running
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_toys import toy_engine

from serving.app import create_app
from serving.service import Service
from serving.settings import Settings

N_OPERATIONS = 6
CASES = int(os.environ.get("RECSYS_FUZZ_CASES", "300"))
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    service = Service(Settings(), lambda _: toy_engine())
    with running(create_app(service=service)) as address:
        service._thread.join()
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=-(-CASES // N_OPERATIONS),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_documented_and_none_is_a_failure(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)
