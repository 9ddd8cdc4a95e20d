"""Whatever the OpenAPI document allows is answered as it says."""

from __future__ import annotations

from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.unit.api.fake_services import FakeServices
from tinyagentos.api.app import create_api

CASES = 2000
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
HEADERS = {"Authorization": "Bearer secret-token", "Host": "localhost"}


def test_every_answer_is_as_the_contract_says(tmp_path: Path) -> None:
    app = create_api(FakeServices(tmp_path))
    contract = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=HEADERS)
    operations = [found.ok() for found in contract.get_all_operations()]
    done = 0

    for operation in operations:

        @given(case=operation.as_strategy())
        @hypothesis_settings(
            max_examples=CASES // len(operations) * 2,  # some routes have few different requests
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: schemathesis.Case) -> None:
            nonlocal done
            answer = case.call(headers=HEADERS)
            case.validate_response(answer, checks=CHECKS)
            done += 1

        check()
    assert done >= CASES
