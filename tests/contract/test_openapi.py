"""The service keeps what its OpenAPI document promises, whatever is sent. RECSYS_FUZZ_CASES says how often."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from http_servers import running
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.app import create_app
from serving.service import Service
from serving.settings import Settings

N_LEAST = 9
CASES = int(os.environ.get("RECSYS_FUZZ_CASES", "300"))
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def operations(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    store_url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'recsys.db'}"
    service = Service(Settings(bundle=tiny_bundle, store_url=store_url, live_items=2_000, budget_ms=10_000))
    with running(create_app(service=service)) as address:
        service._thread.join()
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        yield [operation.ok() for operation in schema.get_all_operations()]


def test_every_answer_is_documented_and_none_is_a_failure(operations: list[Any]) -> None:
    assert len(operations) >= N_LEAST

    for operation in operations:

        @settings(
            max_examples=-(-CASES // len(operations)),
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        check()
