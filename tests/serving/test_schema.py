"""The HTTP API compared with its OpenAPI description."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from seesay.config import DecodingOptions
from seesay.serving import limits
from tests.serving.conftest import Start
from tests.serving.servers import PATIENCE, Running, encoded, upload

PROBES = {"/healthz", "/readyz", "/metrics"}


def schema_of(server: Running) -> Any:
    with server.client() as client:
        return client.get("/openapi.json").json()


def test_the_schema_contains_all_options_and_limits(shared: Running) -> None:
    paths = schema_of(shared)["paths"]
    assert {"/v1/caption", "/v1/chat/completions", "/v1/models", "/v1/models/{id}"} | PROBES == set(paths)
    operation = paths["/v1/caption"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    names = set(DecodingOptions.model_fields)
    assert set(form["properties"]) == names | {"images", "prompt", "attention", "top_tokens"}
    assert form["required"] == ["images"]
    assert form["properties"]["beam_size"]["maximum"] == limits.MAX_BEAM_SIZE
    assert all(field["description"] for field in form["properties"].values())
    assert {"200", "400", "401", "408", "413", "415", "422", "503"} == set(operation["responses"])


def test_the_schema_states_where_a_key_is_required(shared: Running, start: Start) -> None:
    # Bug: the description of a service with a key had no security schemes, so that generated clients sent no key.
    schema = schema_of(start(api_key="sesame"))
    ((name, scheme),) = schema["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == ([{name: []}] if path.startswith("/v1/") else None)
    assert "securitySchemes" not in schema_of(shared)["components"]


def test_the_examples_have_the_structure_of_real_responses(shared: Running) -> None:
    """The examples have the same keys as responses, at every depth; FastAPI omits null values in examples."""

    def keys(value: Any) -> Any:
        if isinstance(value, dict):
            known = {name: item for name, item in value.items() if item is not None}
            return {name: keys(item) for name, item in known.items() if name not in ("options", "attention")}
        return [keys(value[0])] if isinstance(value, list) and value else None

    responses = schema_of(shared)["paths"]["/v1/caption"]["post"]["responses"]
    with shared.client() as client:
        answer = client.post("/v1/caption", **upload(encoded(0), attention=True)).json()
        error = client.post("/v1/caption", **upload(b"")).json()
    assert keys(responses["200"]["content"]["application/json"]["example"]) == keys(answer)
    assert keys(responses["422"]["content"]["application/json"]["example"]) == keys(error)


@pytest.mark.parametrize(
    "path", ["/v1/caption", "/v1/chat/completions", "/v1/models", "/v1/models/{id}", *sorted(PROBES)]
)
def test_fuzzed_requests_get_documented_responses(shared: Running, path: str) -> None:
    """Every response has a documented status and body, and no status is 5xx."""
    fuzz(shared, path, 40 if path.startswith("/v1/c") else 3)


def fuzz(server: Running, path: str, examples: int) -> None:
    """Sends requests generated from the schema, valid and invalid ones."""
    schema = schemathesis.openapi.from_dict(schema_of(server))
    schema.config.update(base_url=server.url)
    (found,) = schema.include(path=path).get_all_operations()
    operation: Any = found.ok()  # type: ignore[union-attr]
    kinds = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    statuses = set()

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=st.one_of(kinds))
    def check(case: Any) -> None:
        response = case.call(timeout=PATIENCE)
        statuses.add(response.status_code)
        case.validate_response(
            response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
        )

    check()
    assert statuses
    assert max(statuses) < 500


def test_it_is_valid_openapi(shared: Running) -> None:
    schemathesis.openapi.from_dict(schema_of(shared)).validate()
