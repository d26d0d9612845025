"""Base URLs as operators write them: endings, user and password, IPv6, localhost."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.conftest import MakeWeir
from tests.support import asking
from tests.support.gevent_process import GeventProcess
from tests.support.recording_provider import RecordingProvider
from tests.support.servers import DidNotStart
from webapp import base_url, settings
from webapp.llm.messages import ModelRequest
from webapp.settings import SettingsError

KEY = "test_key_0123456789"
# Of gate and pa@ss:1, as in c12.
GATE = "Basic Z2F0ZTpwYUBzczox"
DEPLOYMENT = "/openai/deployments/dep/chat/completions?api-version=2024-10-21"


@pytest.fixture(scope="module")
def process() -> Iterator[GeventProcess]:
    with GeventProcess() as running:
        yield running


@pytest.fixture
def server() -> Iterator[RecordingProvider]:
    with RecordingProvider() as running:
        yield running


def hello() -> ModelRequest:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    return ModelRequest(body, None, native=False)


@pytest.mark.parametrize(
    ("provider_type", "written", "url"),
    [
        ("openai", "http://host", "http://host"),
        ("openai", " http://host:11434/ ", "http://host:11434"),
        ("openai", "http://host//v1//", "http://host/v1"),
        ("openai", "HTTPS://Host:443/v1", "https://host/v1"),
        ("openai", "http://host/v1/v1", "http://host/v1"),
        ("openai", "http://host/openai/v1/openai/v1/", "http://host/openai/v1"),
        ("openai", "http://host/v1beta/openai/", "http://host/v1beta/openai"),
        ("openai", "http://host/v1/chat/completions", "http://host/v1"),
        ("openai", "http://host/api/v1/embeddings/", "http://host/api/v1"),
        ("openai", "http://host/v1/models", "http://host/v1"),
        ("openai", "http://host/models", "http://host/models"),
        ("openai", "https://api.openai.com/", "https://api.openai.com/v1"),
        ("openai", "http://[2001:DB8::1]:8000/v1", "http://[2001:db8::1]:8000/v1"),
        ("openai", "http://[fe80::1%25eth0]/v1", "http://[fe80::1%eth0]/v1"),
        ("openai", "http://user:p%40ss@host/v1", "http://host/v1"),
        ("azure", "https://r.openai.azure.com/", "https://r.openai.azure.com"),
        ("azure", "http://host/azure/openai", "http://host/azure"),
        ("azure", "http://host/azure/openai/v1/", "http://host/azure"),
        ("azure", "http://host/azure/v1", "http://host/azure"),
        ("azure", "http://host/openai/v1/openai/v1", "http://host"),
        ("azure", "http://host/openai/v1/chat/completions", "http://host"),
        ("azure", f"http://host/azure{DEPLOYMENT}", "http://host/azure"),
        ("azure", "http://host/v1/team", "http://host/v1/team"),
        ("anthropic", "http://host/anthropic/v1/", "http://host/anthropic"),
        ("anthropic", "http://host/v1/messages", "http://host"),
        ("anthropic", "http://host/v1/messages/count_tokens", "http://host"),
        ("langchain:groq", "http://host/openai/v1/", "http://host/openai/v1"),
        ("openai", "", ""),
    ],
)
def test_a_base_url_may_be_written_in_many_ways(provider_type: str, written: str, url: str) -> None:
    assert base_url.parse(written, provider_type).url == url


@pytest.mark.parametrize(
    "written",
    [
        "localhost:11434",
        "host/v1",
        "ftp://host",
        "http://",
        "http:///v1",
        "http://user:secret@",
        "http://host:port/v1",
        "http://host:0/v1",
        "http://host:65536",
        "http://gate:sec/ret@host/v1",
        "http://gate:sec#ret@host/v1",
        "http://host/v1#part",
        "http://ho st/v1",
        "http://höst/v1",
        "http://host/v1\nX-Header: 1",
        "http://[::1/v1",
        "http://::1:8000/v1",
    ],
)
@pytest.mark.parametrize(
    "variable",
    ["OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "ANTHROPIC_BASE_URL", "PROVIDER_X_BASE_URL"],
)
def test_what_is_no_base_url_is_refused_by_the_name_of_its_setting(
    tmp_path: object, variable: str, written: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        settings.load({variable: written, "DATA_DIR": str(tmp_path)})
    assert str(refused.value).count(f"  - {variable} must ") == 1
    assert "sec" not in str(refused.value)
    assert "host/" not in str(refused.value).replace("https://host:8443/", "")


def test_a_bad_base_url_stops_the_start_with_one_message(new_weir: MakeWeir) -> None:
    with pytest.raises(DidNotStart) as ended:
        new_weir(OPENAI_BASE_URL="localhost:11434").start()
    assert "OPENAI_BASE_URL must start with http:// or https://" in ended.value.output
    assert ended.value.output.count("OPENAI_BASE_URL") == 1
    assert "Traceback" not in ended.value.output


@pytest.mark.parametrize(
    ("ending", "target"),
    [
        ("", "/chat/completions"),
        ("/", "/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/openai/v1/", "/openai/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1?code=a%20b&x=", "/v1/chat/completions?code=a%20b&x="),
    ],
)
def test_openai_is_asked_below_its_base_url(
    process: GeventProcess, server: RecordingProvider, ending: str, target: str
) -> None:
    environment = {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.port}{ending}"}
    process.run(asking.answer, environment, hello(), "m1")
    assert [call.target for call in server.calls] == [target]


V1 = "/azure/openai/v1/chat/completions"
DEP = f"/azure{DEPLOYMENT}"


@pytest.mark.parametrize(
    ("ending", "version", "target"),
    [
        *((ending, "", V1) for ending in ("", "/", "/openai", "/openai/", "/openai/v1/", "/v1")),
        *(
            (ending, "2024-10-21", DEP)
            for ending in ("", "/", "/openai", "/openai/v1/", "/openai/v1/chat/completions")
        ),
        ("/openai/deployments/other/chat/completions?api-version=2024-10-21", "", DEP),
        ("/openai/deployments/other?api-version=2023-05-15", "2024-10-21", DEP),
        ("?api-version=2024-10-21", "", DEP),
        ("/openai/v1?api-version=preview", "", f"{V1}?api-version=preview"),
        ("/openai/v1?api-version=preview", "2024-10-21", DEP),
        ("", "preview", f"{V1}?api-version=preview"),
        ("/openai/v1/?subscription-key=k", "", f"{V1}?subscription-key=k"),
        ("?subscription-key=k", "2024-10-21", f"{DEP}&subscription-key=k"),
    ],
)  # c35
def test_azure_is_asked_at_one_address_however_its_endpoint_ends(
    process: GeventProcess, server: RecordingProvider, ending: str, version: str, target: str
) -> None:
    environment = {
        "AZURE_OPENAI_ENDPOINT": f"http://127.0.0.1:{server.port}/azure{ending}",
        "AZURE_OPENAI_API_KEY": "az-key",
        "OPENAI_API_VERSION": version,
    }
    process.run(asking.answer, environment, hello(), "dep")
    assert [call.target for call in server.calls] == [target]
    assert server.calls[0].headers["api-key"] == "az-key"


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/messages", "/v1/?team=a%20b"])
def test_anthropic_is_asked_at_one_address_however_its_base_url_ends(
    process: GeventProcess, server: RecordingProvider, ending: str
) -> None:
    environment = {
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.port}{ending}",
        "ANTHROPIC_API_KEY": "sk-ant",
    }
    process.run(asking.answer, environment, hello(), "claude-haiku-4-5")
    process.run(asking.check, environment, 5.0)
    query = "team=a+b" if "?" in ending else ""
    asked, listed = (request.target.replace("%20", "+") for request in server.requests)
    assert asked == f"/v1/messages?{query}".rstrip("?")
    assert listed == f"/v1/models?limit=1000&{query}".rstrip("&")


@pytest.mark.parametrize(
    ("variable", "more"),
    [
        ("OPENAI_BASE_URL", {"OPENAI_API_KEY": "sk-key"}),
        ("AZURE_OPENAI_ENDPOINT", {"AZURE_OPENAI_API_KEY": "sk-key"}),
        ("ANTHROPIC_BASE_URL", {"ANTHROPIC_API_KEY": "sk-key"}),
        ("PROVIDER_X_BASE_URL", {"PROVIDER_X_API_KEY": "sk-key"}),
    ],
)
def test_user_and_password_replace_the_key_as_authorization(
    process: GeventProcess, variable: str, more: dict[str, str]
) -> None:
    with RecordingProvider(authorization=GATE) as server:
        environment = {variable: f"http://gate:pa%40ss%3A1@127.0.0.1:{server.port}/v1", **more}
        process.run(asking.answer, environment, hello(), "m1")
        process.run(asking.check, environment, 5.0)
        assert "pa" not in process.run(asking.traits, environment).identity.partition("@")[2]
    for request in server.requests:
        assert request.headers["authorization"] == GATE
        own = {"AZURE_OPENAI_ENDPOINT": "api-key", "ANTHROPIC_BASE_URL": "x-api-key"}.get(variable)
        assert own is None or request.headers[own] == "sk-key"


@pytest.mark.parametrize(
    ("user_info", "sent"),
    [("gate:pass", "gate:pass"), ("token", "token:"), (":pass", ":pass"), ("u:p:%C3%A9", "u:p:é")],
)
def test_any_user_and_password_are_sent_as_basic_credentials(user_info: str, sent: str) -> None:
    header = base_url.parse(f"http://{user_info}@host/v1", "openai").authorization
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == sent


def test_user_and_password_are_used_and_shown_nowhere(start_weir: MakeWeir) -> None:  # c12
    with RecordingProvider(authorization=GATE) as server:
        weir = start_weir(
            API_KEYS=f"test:enterprise:{KEY}",
            OPENAI_BASE_URL=f"http://gate:pa%40ss%3A1@127.0.0.1:{server.port}/v1",
            DEFAULT_MODEL="m1",
            LOG_LEVEL="debug",
            LOG_PROMPTS=True,
        )
        body = {"messages": [{"role": "user", "content": "hello"}]}
        shown = []
        for password in ("pa@ss:1", "pa%40ss%3A1"):
            said = {"messages": [{"role": "user", "content": f"I say {password}"}]}
            assert weir.post("/v1/chat/completions", key=KEY, json=said).status_code == 200
        assert weir.post("/v1/chat/completions", key=KEY, json=body).status_code == 200
        listed = weir.get("/v1/models", key=KEY)
        assert [model["id"] for model in listed.json()["data"]] == ["m1"]
        health = weir.get("/health/detailed", key=KEY)
        assert health.json()["checks"]["llm"]["status"] == "healthy"
        shown.append(health.text)
        shown.append(weir.post("/v1/explain", key=KEY, json=body).text)
        server.authorization = "Basic another"
        body["messages"][0]["content"] = "refused"
        refused = weir.post("/v1/chat/completions", key=KEY, json=body)
        assert refused.status_code == 502
        shown.append(refused.text)
        shown.append(weir.run_flask_process("doctor").stdout)
        assert "openai: ProviderRefusedWeir" in shown[-1]
    body["messages"][0]["content"] = "not reached"
    shown.append(weir.post("/v1/chat/completions", key=KEY, json=body).text)
    shown.append(weir.raw_logs())
    for text in shown:
        for secret in ("pa@ss", "pa%40ss", "Z2F0ZTpwYUBzczox", "gate:"):
            assert secret not in text


@pytest.mark.parametrize(
    ("kind", "written", "shown", "password"),
    [
        ("openai", "https://api.openai.com", "https://api.openai.com/v1", False),
        ("openai", "https://gate:pa%40ss@host:8443/v1?key=pa@ss", "https://host:8443/v1", True),
        ("anthropic", "", "https://api.anthropic.com", False),
        ("anthropic", "https://gate@host/anthropic", "https://host/anthropic", True),
        ("azure", "https://host/?api-version=v1&key=pa@ss", "https://host/openai/v1", False),
        ("langchain:anthropic", "https://gate:pa%40ss@host/v1", "https://host/v1", True),
        ("langchain:anthropic", "", "", False),
    ],
)
def test_pages_show_where_calls_go_and_no_secret(
    process: GeventProcess, kind: str, written: str, shown: str, password: bool
) -> None:
    environment = {
        "PROVIDER_X_TYPE": kind,
        "PROVIDER_X_API_KEY": "sk-0123456789abcdef",
    } | ({"PROVIDER_X_BASE_URL": written} if written else {})
    assert process.run(asking.shown, environment) == (shown, "sk-0***cdef", password)


@pytest.mark.parametrize(
    ("listens", "host", "sent"),
    [
        ("::1", "[::1]", "[::1]"),
        ("::1", "localhost", "localhost"),
        ("127.0.0.1", "localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ],
)  # c44
def test_a_provider_is_reached_by_each_name_of_its_address(
    process: GeventProcess, listens: str, host: str, sent: str
) -> None:
    with RecordingProvider(listens) as server:
        environment = {"OPENAI_BASE_URL": f"http://{host}:{server.port}/v1"}
        assert process.run(asking.answer, environment, hello(), "m1").content == "hello"
    assert server.calls[0].headers["host"] == f"{sent}:{server.port}"


@pytest.mark.parametrize(
    "model", ["../../x", "..", ".", "a/../b", "dep?x=1", "a/b", "@cf/x#y", "é"]
)
def test_a_model_s_name_never_changes_the_path_at_azure(
    process: GeventProcess, server: RecordingProvider, model: str
) -> None:
    environment = {
        "AZURE_OPENAI_ENDPOINT": f"http://127.0.0.1:{server.port}/azure",
        "AZURE_OPENAI_API_KEY": "az-key",
        "OPENAI_API_VERSION": "2024-10-21",
    }
    answer, _ = process.run(asking.timed_answer, environment, hello(), model)
    if ".." in model or model == ".":
        assert getattr(answer, "status", None) == 404
        assert server.calls == []
    else:
        [call] = server.calls
        deployments, _, rest = call.target.partition("/deployments/")
        deployment, _, operation = rest.partition("/")
        assert deployments == "/azure/openai"
        assert operation == "chat/completions?api-version=2024-10-21"
        assert not set(deployment) & set("?#/.")
