"""The Redis client: one connection per worker, with many commands per round trip.

Greenlets enqueue commands; one greenlet sends the queue as a pipeline and distributes the replies.
So a worker needs one connection however many requests are open, a burst shares its round trips,
and a dead Redis is noticed once, not by each request.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from redis import Redis, RedisCluster, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from webapp.storage.instrumentation import InstrumentationHook

log = logging.getLogger(__name__)

TIMEOUT = 0.2
PROBE_INTERVAL = 0.5
MAX_BATCH = 256

Argument = str | bytes | int | float
QueuedCommand = tuple[tuple[Argument, ...], AsyncResult]


class RedisUnavailable(Exception):
    """Redis cannot be reached or does not answer in time."""


class Script:
    """A Lua script; after its first run it is called by its digest."""

    def __init__(self, text: str, keys: int) -> None:
        self.text = text
        self.keys = keys
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisClient:
    """Runs commands: a reply within TIMEOUT, or RedisUnavailable.

    After a failure it is `unavailable`, and commands fail at once, until a background probe
    succeeds. `instrument` wraps each round trip.
    """

    def __init__(
        self,
        url: str,
        *,
        verify_certificate: bool = True,
        instrument: InstrumentationHook = nullcontext,
    ) -> None:
        self._url = url
        self._verify_certificate = verify_certificate
        self._instrument = instrument
        self._waiting: deque[QueuedCommand] = deque()
        self._queued = Event()
        self._sender: gevent.Greenlet | None = None
        self._connected = False
        self.unavailable = False

    @cached_property
    def _client(self) -> Any:
        # Created with the first command: a cluster's client connects to the cluster at once.
        return _client(self._url, self._verify_certificate)

    @cached_property
    def _connection(self) -> Any:
        return self._client.connection_pool.make_connection()

    @property
    def _is_cluster(self) -> bool:
        return isinstance(self._client, RedisCluster)

    def execute(self, *command: Argument) -> Any:
        """The reply to one command.

        Raises RedisUnavailable, also if Redis rejects the command (full, read-only, loading).
        """
        return _reply(self._enqueue(command))

    def execute_all(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """The replies to several commands, in order, in one round trip. Raises as execute()."""
        return [_reply(waiting) for waiting in [self._enqueue(command) for command in commands]]

    def run(self, script: Script, *arguments: Argument) -> Any:
        """The reply of a script to its keys and arguments."""
        try:
            return self.execute("EVALSHA", script.digest, script.keys, *arguments)
        except NoScriptError:
            return self.execute("EVAL", script.text, script.keys, *arguments)

    def send_and_forget(self, *command: Argument) -> None:
        """Send a command without waiting for its reply; dropped while Redis is unavailable."""
        with contextlib.suppress(RedisUnavailable):
            self._enqueue(command)

    def _enqueue(self, command: tuple[Argument, ...]) -> AsyncResult:
        if self.unavailable:
            raise RedisUnavailable
        if self._sender is None:
            self._sender = gevent.spawn(self._send_forever)
        reply = AsyncResult()
        self._waiting.append((command, reply))
        self._queued.set()
        return reply

    def _send_forever(self) -> None:
        while True:
            self._queued.wait()
            self._queued.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                try:
                    with self._instrument("trip"):
                        replies = self._send([command for command, _ in batch])
                except Exception as error:  # noqa: BLE001 no request may wait for ever
                    self._fail(batch, error)
                    break
                for (_, waiting), reply in zip(batch, replies, strict=True):
                    if isinstance(reply, Exception):
                        waiting.set_exception(reply)
                    else:
                        waiting.set(reply)

    def _send(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        send = self._through_cluster if self._is_cluster else self._through_connection
        started = time.monotonic()
        try:
            return send(commands)
        except RedisTimeout:
            # The timeout fired much too late: this process was busy, Redis may be available.
            if time.monotonic() - started < TIMEOUT * 1.5:
                raise
        except RedisConnectionError:
            # The connection may have broken while idle: try a new one.
            pass
        return send(commands)

    def _through_connection(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Without redis-py's pipeline, whose overhead is larger than the cost of the round trip."""
        connection = self._connection
        try:
            if not self._connected:
                connection.connect()
                self._connected = True
            connection.send_packed_command(connection.pack_commands(commands))
            return [_read(connection) for _ in commands]
        except BaseException:
            # Replies not read yet would be mistaken for those of the next commands.
            self._connected = False
            connection.disconnect()
            raise

    def _through_cluster(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(pipeline.execute(raise_on_error=False))

    def _fail(self, batch: list[QueuedCommand], error: Exception) -> None:
        self.unavailable = True
        log.warning("Redis is unavailable: %s", type(error).__name__)
        for _, reply in [*batch, *self._waiting]:
            reply.set_exception(RedisUnavailable())
        self._waiting.clear()
        gevent.spawn(self._probe_until_back)

    def _probe_until_back(self) -> None:
        while self.unavailable:
            gevent.sleep(PROBE_INTERVAL)
            try:
                self._client.ping()
            except (RedisError, RedisClusterException, OSError):
                continue
            self.unavailable = False
            log.warning("Redis is available again")


def _read(connection: Any) -> Any:
    """The next reply; an error reply is returned, not raised, as more replies follow."""
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _reply(waiting: AsyncResult) -> Any:
    try:
        return waiting.get()
    except NoScriptError:
        raise
    except RedisError as error:
        log.error("Redis rejected a command: %s", error)
        raise RedisUnavailable from error


def _behind_sentinels(rest: str, *, tls: bool, options: dict[str, Any]) -> Any:
    """The client of `[user:password@]host:port,…/service[/database]`."""
    credentials, _, location = rest.rpartition("@")
    hosts, _, path = location.partition("/")
    service, _, database = path.partition("/")
    user, _, password = credentials.partition(":")
    options |= {"ssl": tls, "username": user or None, "password": password or None}
    pairs = (host.partition(":") for host in hosts.split(","))
    addresses = [(host, int(port or 26379)) for host, _, port in pairs]
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        addresses, sentinel_kwargs={"socket_timeout": TIMEOUT}, **options
    )
    return sentinel.master_for(service or "mymaster", db=int(database or 0))


def _client(url: str, verify_certificate: bool) -> Any:
    """A client for a plain, sentinel or cluster URL, with short timeouts.

    `redis+sentinel://host:26379,host:26379/service/0`, `redis+cluster://host:port`.
    """
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": 0,
    }
    scheme, _, rest = url.partition("://")
    if scheme.startswith("rediss") and not verify_certificate:
        options["ssl_cert_reqs"] = "none"
    # One retry on a connection that broke while idle; none after a timeout.
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    if scheme.endswith("+cluster"):
        return RedisCluster.from_url(f"{scheme.removesuffix('+cluster')}://{rest}", **options)
    if scheme.endswith("+sentinel"):
        return _behind_sentinels(rest, tls=scheme.startswith("rediss"), options=options)
    return Redis.from_url(url, retry=retry, **options)
