"""The gateways that are compared: how each is installed, started and called."""

from __future__ import annotations

import json
import uuid
from typing import Any

from benchmarks import peers
from benchmarks.answers import Protocol
from benchmarks.processes import SERVER_CORES, Server, free_port
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import QUESTION, Run
from benchmarks.upstream import MODEL
from benchmarks.workplace import KEY, gives

PEER_START_TIMEOUT = 180.0  # seconds


class Gateway:
    """A gateway. The default is OpenAI's protocol with one key."""

    name: str
    protocol = Protocol.OPENAI
    path = "/v1/chat/completions"
    is_peer = True
    has_cache = True
    has_budgets = False

    def __init__(self, run: Run) -> None:
        self._run = run

    def install(self) -> None:
        """Raises peers.NotInstalled."""

    def start(self, *, cached: bool = False) -> Server:
        """The server, to be started; `cached` turns its cache on."""
        raise NotImplementedError

    def headers(self, key: str = KEY) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def body(self, question: str) -> dict[str, Any]:
        return {"model": MODEL, "messages": [{"role": "user", "content": question}]}

    def ask(
        self, server: Server, *, stream: bool = False, same: bool = False, key: str = KEY
    ) -> Request:
        """A request that was not sent before. With `same`, it is the same each time it is sent."""
        question = f"{QUESTION}{uuid.uuid4().hex}{'' if same else NUMBER}"
        body = self.body(question) | ({"stream": True} if stream else {})
        return post(server.port, self.path, self.headers(key), body)


class Weir(Gateway):
    """All features are always on: key, limits, cache and log."""

    name = "Weir /v1/chat/completions"
    is_peer = False
    has_budgets = True

    def start(self, *, cached: bool = False) -> Server:
        return self._run.weir()


class NativeWeir(Weir):
    name = "Weir /chat"
    protocol = Protocol.NATIVE
    path = "/chat"

    def headers(self, key: str = KEY) -> dict[str, str]:
        return {"X-API-Key": key}

    def body(self, question: str) -> dict[str, Any]:
        return {"message": question}


class LiteLLM(Gateway):
    """Configured as in its production guide, with a master key and Redis as the cache."""

    name = "LiteLLM"

    def install(self) -> None:
        self._program = peers.litellm()

    def start(self, *, cached: bool = False) -> Server:
        port = free_port()
        # JSON is YAML.
        config = self._run.place.file(f"litellm-{port}.yaml", json.dumps(self._config(cached)))
        command = [
            *(str(self._program), "--config", str(config), "--host", "127.0.0.1"),
            *("--port", str(port), "--num_workers", "1", "--telemetry", "False"),
        ]
        environment = {
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it is downloaded at start
        }
        ready = gives("/health/readiness")
        place = self._run.place
        return place.server(command, port, ready, SERVER_CORES, environment, PEER_START_TIMEOUT)

    def _config(self, cached: bool) -> dict[str, Any]:
        target = {
            "model": f"openai/{MODEL}",
            "api_base": f"http://127.0.0.1:{self._run.upstream.port}/v1",
            "api_key": "upstream",
        }
        redis = {"type": "redis", "host": "127.0.0.1", "port": self._run.valkey.port}
        return {
            "model_list": [{"model_name": MODEL, "litellm_params": target}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"cache": True, "cache_params": redis} if cached else {},
        }


class Portkey(Gateway):
    """Its open edition has no keys, limits or cache: the client names the provider."""

    name = "Portkey"
    has_cache = False

    def install(self) -> None:
        self._command = peers.portkey()

    def start(self, *, cached: bool = False) -> Server:
        port = free_port()
        command = [*self._command, f"--port={port}", "--headless"]
        place = self._run.place
        return place.server(
            command, port, gives("/"), SERVER_CORES, start_timeout=PEER_START_TIMEOUT
        )

    def headers(self, key: str = KEY) -> dict[str, str]:
        return super().headers(key) | {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{self._run.upstream.port}/v1",
        }
