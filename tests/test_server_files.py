"""The files for a plain server, deploy/server: their checkers, and a restart that loses nothing."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.support.certificates import make_certificate
from tests.support.servers import REPOSITORY, Weir, free_port
from webapp import settings

FILES = REPOSITORY / "deploy" / "server"
PATH = f"{os.environ['PATH']}:/usr/sbin"
SERVICES = ("weir.service", "weir-worker.service")
DEFAULTS = {one.metadata["variable"]: one.metadata["default"] for one in settings.table()}


def checker(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if not found:
        pytest.skip(f"{name} is not installed: its file is not checked here")
    return found


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        command, env={"PATH": PATH} | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in ("weir.service", "weir.socket", "weir-worker.service"):
        text = (FILES / unit).read_text()
        # The commands of this environment: systemd looks whether they are there.
        text = text.replace("/opt/weir/current/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / unit).write_text(text)
    run(checker("systemd-analyze"), "verify", *map(str, sorted(tmp_path.iterdir())))


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_waits_longer_than_a_shutdown_takes(service: str) -> None:
    [waits] = re.findall(r"TimeoutStopSec=(\d+)", (FILES / service).read_text())
    assert int(waits) > float(DEFAULTS["SHUTDOWN_GRACE"])


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_never_gives_up_while_the_database_is_away(service: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(FILES / service)
    # Its migration fails within a second then; by default five failures within ten seconds are
    # the end, of weir.socket too.
    assert unit["Service"]["Restart"] in {"on-failure", "always"}
    assert unit["Unit"].get("StartLimitIntervalSec") == "0"
    assert int(unit["Service"].get("RestartSec", "0")) >= 1


def test_caddy_understands_its_file(tmp_path: Path) -> None:
    caddy, file = checker("caddy"), str(FILES / "Caddyfile")
    run(caddy, "validate", "--adapter", "caddyfile", "--config", file, HOME=str(tmp_path))


def test_compose_knows_its_caddy_and_that_weir_has_a_proxy_before_it() -> None:
    file = FILES / "docker-compose.yml"
    schema = ("--builtin-schema", "vendor.compose-spec")
    run(str(Path(sys.executable).parent / "check-jsonschema"), *schema, str(file))
    services = yaml.safe_load(file.read_text())["services"]
    assert services["weir"]["environment"] == {"TRUSTED_PROXIES": "1"}
    caddyfile = (FILES / "Caddyfile").read_text()
    assert set(re.findall(r"{\$(\w+):", caddyfile)) == set(services["caddy"]["environment"])
    assert re.fullmatch(r"caddy:\d+\.\d+\.\d+-alpine", services["caddy"]["image"])


def test_nginx_understands_its_file_and_takes_what_weir_takes(tmp_path: Path) -> None:
    text = (FILES / "nginx.conf").read_text()
    [most] = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(most) * 2**20 >= int(DEFAULTS["MAX_BODY_BYTES"])
    certificate = make_certificate(tmp_path, days=1)
    text = re.sub(r"/etc/letsencrypt/\S+\.pem", str(certificate), text)
    # The ports are root's; where the package keeps bodies may be missing.
    text = re.sub(r"listen (\[::\]:)?\d+", lambda one: f"listen {one[1] or ''}{free_port()}", text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text += "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    main = tmp_path / "nginx.conf"
    logs = f"error_log {tmp_path}/log;\naccess_log off;\n"
    main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{logs}{text}}}\n")
    run(checker("nginx"), "-t", "-q", "-c", str(main))


class ActivatedWeir(Weir):
    """Gets its port from whoever starts it, as weir.socket gives it to weir.service."""

    def __init__(self, port_of_systemd: socket.socket) -> None:
        super().__init__({"HOST": "127.0.0.1"})
        self._given = port_of_systemd.fileno()
        self.port = port_of_systemd.getsockname()[1]

    def _command(self) -> list[str]:
        # systemd's protocol: the first socket is file 3, for the process that LISTEN_PID names.
        takes = f"exec 3<&{self._given}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "
        return ["bash", "-c", takes + " ".join(super()._command())]

    def _process_options(self) -> dict[str, object]:
        return super()._process_options() | {"pass_fds": (self._given,)}


def test_requests_wait_while_a_weir_restarts_whose_port_systemd_holds() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as port, ThreadPoolExecutor() as pool:
        weir = ActivatedWeir(port)
        with weir:
            assert weir.terminate() == 0
            asked = [
                pool.submit(weir.post, "/chat", key="prod_key_456", json={"message": str(number)})
                for number in range(5)
            ]
            time.sleep(0.2)  # they are connected, and nobody answers
            assert not any(one.done() for one in asked)
            weir.start()
            assert [one.result().status_code for one in asked] == [200] * 5
