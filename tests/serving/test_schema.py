"""The interface against what it says of itself."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from seesay.serving import limits
from seesay.settings import DecodingOptions
from tests.serving.servers import PATIENCE, Running, encoded, upload


def schema_of(server: Running) -> Any:
    with server.client() as client:
        return client.get("/openapi.json").json()


def test_it_tells_of_every_option_and_bound(shared: Running) -> None:
    paths = schema_of(shared)["paths"]
    assert {"/v1/caption", "/v1/models", "/healthz", "/readyz", "/metrics"} == set(paths)
    operation = paths["/v1/caption"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    names = set(DecodingOptions.__dataclass_fields__)
    assert set(form["properties"]) == names | {"images", "attention", "top_tokens"}
    assert form["required"] == ["images"]
    assert form["properties"]["beam_size"]["maximum"] == limits.MAX_BEAM_SIZE
    assert all(field["description"] for field in form["properties"].values())
    assert {"200", "400", "401", "408", "413", "415", "422", "503"} == set(operation["responses"])


def test_its_examples_are_what_the_service_says(shared: Running) -> None:
    """The example of an answer has the very keys of an answer, at every depth; FastAPI leaves null out of it."""

    def keys(value: Any) -> Any:
        if isinstance(value, dict):
            known = {name: held for name, held in value.items() if held is not None}
            return {name: keys(held) for name, held in known.items() if name not in ("options", "attention")}
        return [keys(value[0])] if isinstance(value, list) and value else None

    responses = schema_of(shared)["paths"]["/v1/caption"]["post"]["responses"]
    with shared.client() as client:
        answer = client.post("/v1/caption", **upload(encoded(0), attention=True)).json()
        refusal = client.post("/v1/caption", **upload(b"")).json()
    assert keys(responses["200"]["content"]["application/json"]["example"]) == keys(answer)
    assert keys(responses["422"]["content"]["application/json"]["example"]) == keys(refusal)


@pytest.mark.parametrize("path", ["/v1/caption", "/v1/models", "/healthz", "/readyz", "/metrics"])
def test_fuzzed_fields_get_answers_that_the_schema_knows(shared: Running, path: str) -> None:
    """Whatever is sent: a status and a body that are documented, and never a 5xx."""
    fuzz(shared, path, 40 if path == "/v1/caption" else 3)


def fuzz(server: Running, path: str, examples: int) -> None:
    """Sends requests made from the schema, such as keep to it and such as do not."""
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
