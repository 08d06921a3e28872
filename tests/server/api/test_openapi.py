"""The OpenAPI document: valid, complete, and true."""

import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import validate
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.generation import GenerationMode

from isoform.server.app import create_app
from isoform.server.routes.inference import ROUTES
from isoform.server.store.store import Store

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
]  # fmt: skip


@pytest.fixture(scope="module")
def app(runtime, tmp_path_factory):
    """An application that keeps signatures, with one user."""
    with Store(f"sqlite:///{tmp_path_factory.mktemp('openapi') / 's.db'}") as store:
        app = create_app(runtime, store=store)
        app.test_client().put("/v1/models/plain/signatures/alice", data=runtime.signature("plain").encode())
        yield app


def test_valid_and_complete(app) -> None:
    """It is valid, and has every route with every method, and no other."""
    document = app.test_client().get("/openapi.json").json
    validate(document)
    routes = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
        routes |= {(path, method.lower()) for method in rule.methods - {"HEAD", "OPTIONS"}}
    routes |= {(re.sub(r"<(\w+)>", r"{\1}", path), "post") for path in ROUTES}
    told = {
        (path, method)
        for path, operations in document["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert told == routes
    assert len(told) >= 25


api = schemathesis.pytest.from_fixture("described")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_what_it_says(mode, app) -> None:
    """Twenty requests for every operation, well-formed or not: no 5xx, no status, content type or body that the document does not have."""
    schema, checked = schemathesis.openapi.from_wsgi("/openapi.json", app), 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case) -> None:
            nonlocal checked
            case.call_and_validate(checks=CHECKS)
            checked += 1

        try:
            check()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # nothing can be wrong about some
    print(f"schemathesis: {checked} requests, {mode.value}")  # shown by pytest -s
    assert checked > 300
