"""Azure OpenAI: OpenAI's protocol at other addresses, with a key of another name."""

from __future__ import annotations

import pytest

from tests.conftest import MakeWeir
from tests.support.servers import Provider

KEY = "test_key_0123456789"


@pytest.mark.parametrize(
    ("version", "path", "query"),
    [
        ("", "/azure/openai/v1/{call}", ""),
        ("2024-10-21", "/azure/openai/deployments/my-gpt/{call}", "api-version=2024-10-21"),
    ],
    ids=["v1", "by version"],
)
def test_azure_is_asked_as_azure_wants_it(
    start_weir: MakeWeir, provider: Provider, version: str, path: str, query: str
) -> None:
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        AZURE_OPENAI_ENDPOINT=f"{provider.azure_url}/openai/v1/",  # c35
        AZURE_OPENAI_API_KEY="azure-secret-0123456789",
        OPENAI_API_VERSION=version,
        DEFAULT_MODEL="azure/my-gpt",
    )
    body = {"messages": [{"role": "user", "content": "hello"}]}
    answer = weir.post("/v1/chat/completions", key=KEY, json=body)
    assert (answer.status_code, answer.headers["X-Weir-Provider"]) == (200, "azure")
    with weir.stream("/v1/chat/completions", body | {"stream": True}, KEY) as stream:
        assert [*stream][-1] == "[DONE]"
    assert weir.post("/v1/embeddings", key=KEY, json={"input": "hello"}).status_code == 200
    native = weir.post("/chat", key=KEY, json={"message": "natively", "max_tokens": 5})
    assert native.json()["response"] == "echo: natively"
    calls = [call for call in provider.calls() if call["method"] == "POST"]
    paths = [path.format(call=call) for call in ["chat/completions"] * 2 + ["embeddings"]]
    assert [call["path"] for call in calls[:3]] == paths
    for call in calls:
        assert call["query"] == query
        assert call["headers"]["api-key"] == "azure-secret-0123456789"
        assert "authorization" not in call["headers"]
        assert call["body"]["model"] == "my-gpt"
    assert calls[3]["body"]["max_completion_tokens"] == 5
    assert weir.get("/health").json()["checks"]["llm"] == "healthy"
    assert "azure-secret" not in weir.raw_logs()
