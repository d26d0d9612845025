"""Where Weir listens: every way to write HOST (c44)."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import REPOSITORY, DidNotStart, Weir
from tests.test_manifests import image_health_command
from webapp import settings
from webapp.listening import bind_address
from webapp.setting_parsers import host as parse_host


class OnIPv6(Weir):
    """A Weir that only IPv6 reaches."""

    @property
    def url(self) -> str:
        return f"http://[::1]:{self.port}"


def is_alive(weir: Weir, host: str) -> bool:
    try:
        return requests.get(f"http://{host}:{weir.port}/liveness", timeout=5).ok
    except requests.ConnectionError:
        return False


def is_healthy(weir: Weir, host: str) -> bool:
    """What the image's own check says."""
    _, *arguments = image_health_command()
    environment = {"HOST": host, "PORT": str(weir.port)}
    return subprocess.run([sys.executable, *arguments], env=environment, timeout=30).returncode == 0


def test_the_unspecified_ipv6_address_means_both(start_weir: MakeWeir) -> None:
    # The other ways to write these addresses are bound alike, see below.
    weir = start_weir(HOST=" [::] ")
    assert is_alive(weir, "127.0.0.1")
    assert is_alive(weir, "[::1]")
    # Its own client came by IPv4: the demo keys work from there.
    demo = weir.post("/chat", key="dev_key_123", json={"message": "hello"})
    assert demo.status_code == 200
    for host in ("::", " [::] "):
        assert is_healthy(weir, host)
        assert "valid for development" in weir.run_flask("doctor", HOST=host).stdout


def test_an_ipv6_address_means_that_one_only() -> None:
    with OnIPv6({"HOST": "[::1]"}) as weir:
        assert is_alive(weir, "[::1]")
        assert not is_alive(weir, "127.0.0.1")
        for host in ("::1", "[::1]"):
            assert is_healthy(weir, host)
        demo = weir.post("/chat", key="dev_key_123", json={"message": "hello"})
        assert demo.status_code == 200
        assert any(f"[::1]:{weir.port}" in str(line["message"]) for line in weir.logs())


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("", "127.0.0.1:8000"),
        ("0.0.0.0", "0.0.0.0:8000"),
        ("127.0.0.2", "127.0.0.2:8000"),
        ("localhost", "127.0.0.1:8000"),
        ("::", "[::]:8000"),
        (" [::] ", "[::]:8000"),
        ("::1", "[::1]:8000"),
        ("[::1]", "[::1]:8000"),
        ("0:0:0:0:0:0:0:1", "[::1]:8000"),
    ],
)
def test_gunicorn_is_told_in_its_own_notation(tmp_path: Path, host: str, bound: str) -> None:
    assert bind_address(settings.load({"HOST": host, "DATA_DIR": str(tmp_path)})) == bound


@pytest.mark.parametrize("host", ["web-1", "node1", "ip-10-0-0-5", "a.b1", "1.example"])
def test_names_may_end_in_digits(host: str) -> None:
    assert parse_host(host) == host


@pytest.mark.parametrize("host", ["7", "10.1", "a.1", "1.2.3.4.5"])
def test_a_number_as_the_last_label_makes_no_name(host: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        parse_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "192.0.2.1"], ids=["no host", "not here"])
def test_a_bad_host_stops_the_start_with_one_message(new_weir: MakeWeir, host: str) -> None:
    with pytest.raises(DidNotStart) as ended:
        new_weir(HOST=host).start()
    assert ended.value.output.count("HOST must be") == 1
    assert "Traceback" not in ended.value.output


@pytest.mark.parametrize(
    "host",
    ["not a host", "nosuchhost.invalid", "192.0.2.1", "300.1.1.1", "[::1", "fe80::1%lo",
     "http://x", "127.0.0.1:8000"],
)  # fmt: skip
def test_a_bad_host_is_refused_before_gunicorn_hears_of_it(tmp_path: Path, host: str) -> None:
    with pytest.raises(settings.SettingsError) as refused:
        bind_address(settings.load({"HOST": host, "DATA_DIR": str(tmp_path)}))
    assert str(refused.value).count("HOST must be") == 1


def test_a_port_in_use_ends_in_one_line_that_says_so(new_weir: MakeWeir) -> None:
    weir = new_weir()
    with socket.create_server(("127.0.0.1", weir.port)), pytest.raises(DidNotStart) as ended:
        weir.start()
    *log, line = ended.value.output.splitlines()
    assert f"Port {weir.port} is taken" in line
    assert f"PORT={weir.port + 1} make run" in line
    assert {json.loads(entry)["level"] for entry in log} == {"info"}


def test_a_port_that_becomes_free_in_time_is_taken(new_weir: MakeWeir) -> None:
    """Whoever restarts Weir need not wait until the last process has let go of the port."""
    weir = new_weir()
    with socket.create_server(("127.0.0.1", weir.port)) as other:
        threading.Timer(1.5, other.close).start()
        weir.start()


def test_every_start_reads_the_same_configuration() -> None:
    """`make run`, the Procfile, the image and the platforms: none names an address of its own."""
    for name in ("Makefile", "Procfile", "deploy/Dockerfile", "railway.json", "render.yaml"):
        assert "--bind" not in (REPOSITORY / name).read_text()
