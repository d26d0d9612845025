"""The OpenAPI document is true: schemathesis finds nothing, and every example runs as it stands."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    positive_data_acceptance,
    unsupported_method,
)

from tests.conftest import MakeWeir
from tests.support.batches import BatchClient
from tests.support.servers import Weir

KEY = "test_key_0123456789"


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    weir = start_shared_weir(API_KEYS=f"test:enterprise:{KEY}", TIERS="enterprise=99999/minute")
    client = BatchClient(weir, KEY)
    client.run(b"no JSON")  # so that there is a batch, with errors
    return weir


@pytest.fixture(scope="module")
def document(weir: Weir) -> schemathesis.BaseSchema:
    # Beside what schemathesis expects of a refusal: a body that is too large.
    refused = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]
    config = schemathesis.Config.from_dict(
        {"checks": {"negative_data_rejection": {"expected-statuses": refused}}}
    )
    return schemathesis.openapi.from_url(f"{weir.url}/openapi.json", config=config)


POSTED = ["/chat", "/summarize", "/generate", "/predict", "/batch-predict",
          "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
          "/v1/messages/count_tokens", "/v1/explain"]  # fmt: skip
OPERATIONS = [*POSTED, "/stats", "/health", "/health/detailed", "/health/ready", "/readiness",
              "/liveness", "/metrics", "/", "/v1/models", "/v1/models/{model_id}", "/v1/key",
              "/predict/models", "/v1/files", "/v1/files/{file_id}",
              "/v1/files/{file_id}/content", "/jobs/{job_id}",
              "/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items",
              "POST /v1/responses/{response_id}/cancel",
              "/v1/batches", "/v1/batches/{batch_id}",
              "POST /v1/batches/{batch_id}/cancel"]  # fmt: skip
UPLOAD, CREATION = "POST /v1/files", "POST /v1/batches"
# Without a body there is an id to vary, or nothing: 60 requests to GET /v1/key would be the same.
EXAMPLES, EXAMPLES_WITHOUT_BODY = 60, 20


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, GenerationMode.POSITIVE) for path in [*OPERATIONS, UPLOAD]]
    + [(path, GenerationMode.NEGATIVE) for path in [*POSTED[:5], UPLOAD, CREATION]],
)
def test_the_live_server_does_what_the_document_says(
    document: schemathesis.BaseSchema, path: str, mode: GenerationMode
) -> None:
    examples = EXAMPLES if path in {*POSTED, UPLOAD, CREATION} else EXAMPLES_WITHOUT_BODY
    named, _, path = path.rpartition(" ")
    method = named or ("POST" if path in POSTED else "GET")
    operation = document[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def conforms(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE:
            # The short keys that are tried first come again with other bodies.
            case.headers.pop("Idempotency-Key", None)
            # Needs another header and a setting.
            case.headers.pop("X-Weir-Callback", None)
        # The key goes along always, and OPTIONS is answered for browsers.
        excluded = [ignored_auth, unsupported_method]
        # Without a provider there are no embeddings; what is explained has its own schema;
        # any name is well-formed, but few are those of models. What is in a message is the
        # provider's matter, and here it is translated.
        if path in {"/v1/embeddings", "/v1/explain", "/v1/messages", "/v1/responses", "/v1/models",
                    "/predict", "/batch-predict"}:  # fmt: skip
            excluded.append(positive_data_acceptance)
        case.call_and_validate(
            headers={"X-API-Key": KEY, "Authorization": f"Bearer {KEY}"}, excluded_checks=excluded
        )

    conforms()


def test_every_operation_was_tried(document: schemathesis.BaseSchema) -> None:
    # Those of administrators have tests of their own, and need another credential.
    tried = [path for path in document if not path.startswith(("/admin", "/token"))]
    assert sorted(tried) == sorted(path.removeprefix("POST ") for path in OPERATIONS)


def test_every_example_runs_as_it_stands(weir: Weir) -> None:
    paths = weir.get("/openapi.json").json()["paths"]
    examples = {
        path: operations["post"]["requestBody"]["content"]["application/json"]["example"]
        for path, operations in paths.items()
        if "post" in operations
        and "{" not in path
        # A batch needs a file.
        and not path.startswith(("/admin", "/token", "/v1/files", "/v1/batches"))
    }
    assert set(examples) == set(POSTED)
    for path, example in examples.items():
        # Without a provider there are no embeddings.
        expected = 400 if path == "/v1/embeddings" else 200
        assert weir.post(path, key=KEY, json=example).status_code == expected


def test_the_document_names_credentials_and_errors(weir: Weir) -> None:
    document = weir.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    for path, operations in document["paths"].items():
        for method in operations.keys() & {"get", "post"}:
            assert operations[method]["summary"], path
        if "post" in operations and not path.startswith(("/admin", "/token")):
            assert {"ApiKey": []} in operations["post"]["security"]
            everywhere = {"200", "400", "401", "404", "413", "415", "429", "503"}
            assert everywhere <= set(operations["post"]["responses"])
