"""The Redis client: one connection per worker, with many commands per round trip.

Greenlets enqueue commands; one greenlet sends the queue as a pipeline and distributes the replies.
So a worker needs one connection however many requests are open, a burst shares its round trips,
and a dead Redis is noticed once, not by each request.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, cast

import gevent
from gevent.event import AsyncResult, Event
from gevent.lock import BoundedSemaphore
from hiredis import pack_command

from webapp.library_internals import hidden
from webapp.storage.instrumentation import InstrumentationHook
from webapp.storage.redis_commands import RedisUnavailable, Script
from webapp.storage.redis_problems import REFUSED, UNREACHABLE, RedisProblem, problem_of

# redis-py would import sixty modules of it, for metrics that Weir does not ask for.
with hidden("opentelemetry"):
    from redis import Redis, RedisCluster, Sentinel
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoScriptError, RedisError, ResponseError
    from redis.exceptions import TimeoutError as RedisTimeout
    from redis.retry import Retry

log = logging.getLogger(__name__)

Argument = str | bytes | int | float

TIMEOUT = 0.2
PROBE_INTERVAL = 0.5
# What Redis refuses is mended by people; a full one is full again at once.
REFUSED_PROBE_INTERVAL = 2.0
REMIND_INTERVAL = 300.0  # seconds after which the log repeats what is wrong
REJECTION_LOG_INTERVAL = 60.0
MAX_BATCH = 256
# These show whether Weir can work, where any server answers PING: a script that writes, and keys in
# many slots of a cluster, of which one node has only some.
CHECKS: list[tuple[Argument, ...]] = [
    ("EVAL", "return redis.call('SET', KEYS[1], '1', 'PX', 1000)", 1, "weir:check"),
    *(("EXISTS", f"weir:check:{number}") for number in range(32)),
]
QueuedCommand = tuple[tuple[Argument, ...], AsyncResult]


class RedisClient:
    """Runs commands: a reply within TIMEOUT, or RedisUnavailable.

    After a failure, or an error that all commands would get, it is `unavailable`: commands fail at
    once, until a background probe succeeds. `instrument` wraps each round trip.
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
        self._trip = BoundedSemaphore()
        self._problem: RedisProblem | None = None
        self._told: tuple[RedisProblem, float] | None = None  # in the log, and when
        self._loss_is_told = False
        self._rejection_told_at = -REJECTION_LOG_INTERVAL
        self._refused_at: float | None = None

    @property
    def unavailable(self) -> bool:
        return self._problem is not None

    def refused_within(self, seconds: float) -> bool:
        """Whether Redis has lately answered, and refused what Weir needs."""
        return self._refused_at is not None and time.monotonic() - self._refused_at < seconds

    def problem(self) -> RedisProblem | None:
        """What is wrong with Redis, tried now. None if it does what Weir needs."""
        if not self.unavailable:
            self._check()
        return self._problem

    def use(self, url: str) -> None:
        """Connect to another URL from now on. Raises RedisUnavailable if it does not work."""
        new = RedisClient(url, verify_certificate=self._verify_certificate)
        try:
            new.try_out()
        finally:
            new.close()
        with self._trip:
            self._url = url
            self.close()

    def try_out(self) -> None:
        """Raises RedisUnavailable if Redis does not do what Weir needs; nothing else follows."""
        try:
            _raise_refusal(self._send(CHECKS))
        except Exception as error:
            raise RedisUnavailable from error

    def close(self) -> None:
        """Close what is connected; the next command connects anew."""
        made = self.__dict__.pop("_connection", None)
        if made is not None:
            made.disconnect()
        if (client := self.__dict__.pop("_client", None)) is not None:
            client.close()
        self._connected = False

    def info(self) -> dict[str, str]:
        """The fields of INFO; none where the user may not ask, or of a cluster."""
        if self._is_cluster:
            return {}
        with self._trip:
            [reply] = self._send([("INFO",)])
        lines = reply.decode().splitlines() if isinstance(reply, bytes) else []
        return dict(line.partition(":")[::2] for line in lines if ":" in line)

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

        Raises RedisUnavailable, also if Redis rejects the command.
        """
        return self._reply(self._enqueue(command))

    def execute_all(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """The replies to several commands, in order, in one round trip. Raises as execute()."""
        return [
            self._reply(waiting) for waiting in [self._enqueue(command) for command in commands]
        ]

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
                    with self._trip, self._instrument("trip"):
                        replies = self._send([command for command, _ in batch])
                except Exception as error:  # noqa: BLE001 no request may wait for ever
                    for _, waiting in batch:
                        waiting.set_exception(RedisUnavailable())
                    self._lose(error)
                    break
                self._distribute(batch, replies)

    def _distribute(self, batch: list[QueuedCommand], replies: list[Any]) -> None:
        refused = None
        for (_, waiting), reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):
                waiting.set_exception(reply)
                refused = reply if problem_of(reply) else refused
            else:
                waiting.set(reply)
        if refused:
            self._lose(refused)

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
        connection = self._connection
        try:
            if not self._connected:
                connection.disconnect()
                connection.connect()
                _raise_refusal(self._exchange(CHECKS))
                self._connected = True
            return self._exchange(commands)
        except BaseException:
            # Replies not read yet would be mistaken for those of the next commands.
            self._connected = False
            connection.disconnect()
            raise

    def _exchange(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Without redis-py's pipeline, whose overhead is larger than the cost of the round trip."""
        packed = b"".join([pack_command(cast(Any, command)) for command in commands])
        self._connection.send_packed_command([packed])
        return [_read(self._connection) for _ in commands]

    def _through_cluster(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(pipeline.execute(raise_on_error=False))

    def _check(self) -> None:
        """Find out whether Redis does what Weir needs."""
        try:
            with self._trip:
                _raise_refusal(self._send(CHECKS))
        except Exception as error:  # noqa: BLE001 whatever it is: Redis cannot be used
            self._lose(error)
        else:
            self._recover()

    def _lose(self, error: Exception) -> None:
        """Redis cannot be used. Who waits for it need not wait any longer."""
        unknown = REFUSED if isinstance(error, ResponseError) else UNREACHABLE
        new, was_available = problem_of(error) or unknown, not self.unavailable
        self._problem = new
        if new is not UNREACHABLE:
            self._refused_at = time.monotonic()
        self._connected = False  # a name may lead elsewhere after a failover
        for _, reply in self._waiting:
            reply.set_exception(RedisUnavailable())
        self._waiting.clear()
        if was_available:
            self._loss_is_told = False
            gevent.spawn(self._probe_until_back)
        # A full Redis takes a command now and then: that is told once, not each time.
        again = self._told and self._told[0] == new and new is not UNREACHABLE
        if again or (new is UNREACHABLE and not was_available):
            self._remind()
        else:
            self._tell(f"Redis is unavailable: {new.found} ({type(error).__name__})")

    def _tell(self, message: str) -> None:
        assert self._problem
        log.warning("%s. %s", message, self._problem.advice)
        self._told = (self._problem, time.monotonic())
        self._loss_is_told = True

    def _remind(self) -> None:
        if self._told and self._problem and time.monotonic() - self._told[1] > REMIND_INTERVAL:
            self._tell(f"Redis is still unavailable: {self._problem.found}")

    def _recover(self) -> None:
        if self._problem and self._loss_is_told:
            log.warning("Redis is available again")
        self._problem = None

    def _probe_until_back(self) -> None:
        while self._problem:
            unreachable = self._problem is UNREACHABLE
            gevent.sleep(PROBE_INTERVAL if unreachable else REFUSED_PROBE_INTERVAL)
            self._check()

    def _reply(self, waiting: AsyncResult) -> Any:
        try:
            return waiting.get()
        except NoScriptError:
            raise
        except RedisError as error:
            now = time.monotonic()
            if not problem_of(error) and now - self._rejection_told_at > REJECTION_LOG_INTERVAL:
                self._rejection_told_at = now
                log.error("Redis rejected a command: %s", error)
            raise RedisUnavailable from error


def _read(connection: Any) -> Any:
    """The next reply; an error reply is returned, not raised, as more replies follow."""
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _raise_refusal(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


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
