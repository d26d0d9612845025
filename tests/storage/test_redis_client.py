"""Redis as shared memory: one connection, quick failure, recovery; cluster and sentinel too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gevent
import pytest
import redis

from tests.support.servers import REPOSITORY, ClusterNode, Valkey, free_port
from webapp.storage.redis_client import RedisClient
from webapp.storage.redis_commands import RedisUnavailable

MANY = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from webapp.storage.redis_client import RedisClient
memory = RedisClient(sys.argv[1])
asked = [gevent.spawn(memory.execute, "INCR", "n") for _ in range(500)]
gevent.joinall(asked)
assert sorted(one.value for one in asked) == list(range(1, 501))
print(len(memory.execute("CLIENT", "LIST").splitlines()))
"""


class Sentinel(Valkey):
    """A sentinel that watches one master."""

    def __init__(self, master: Valkey) -> None:
        super().__init__()
        watched = f"port {self.port}\nsentinel monitor weir 127.0.0.1 {master.port} 1\n"
        (self.folder / "sentinel.conf").write_text(watched)

    def _command(self) -> list[str]:
        return [super()._command()[0], str(Path(self.folder) / "sentinel.conf"), "--sentinel"]


@pytest.fixture
def memory(fresh_valkey: Valkey) -> RedisClient:
    return RedisClient(fresh_valkey.url)


def test_many_greenlets_share_one_connection() -> None:
    with Valkey() as own:
        result = subprocess.run(
            [sys.executable, "-c", MANY, own.url],
            cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    assert result.stdout.strip() == "1"


def test_it_fails_at_once_while_redis_is_away_and_finds_it_again(
    memory: RedisClient, fresh_valkey: Valkey
) -> None:
    memory.execute("SET", "a", "1")
    fresh_valkey.stop()
    for _ in range(100):
        with pytest.raises(RedisUnavailable):
            memory.execute("GET", "a")
    assert memory.unavailable
    fresh_valkey.start()
    with gevent.Timeout(5):
        while memory.unavailable:
            gevent.sleep(0.05)
    assert memory.execute("SET", "a", "2")


def test_what_redis_refuses_counts_as_away_for_its_caller_alone(memory: RedisClient) -> None:
    memory.execute("SET", "text", "x")
    with pytest.raises(RedisUnavailable):
        memory.execute("LPUSH", "text", "y")
    assert not memory.unavailable
    assert memory.execute("GET", "text") == b"x"


def test_a_cluster_and_a_sentinel_are_reached_by_their_urls(fresh_valkey: Valkey) -> None:
    with ClusterNode() as node:
        node.take_slots()
        memory = RedisClient(f"redis+cluster://127.0.0.1:{node.port}")
        memory.execute("SET", "a", "1")
        assert memory.execute("GET", "a") == b"1"
    with Sentinel(fresh_valkey) as sentinel:
        memory = RedisClient(f"redis+sentinel://127.0.0.1:{sentinel.port}/weir/0")
        memory.execute("SET", "b", "2")
        assert memory.execute("GET", "b") == b"2"
    with redis.Redis.from_url(fresh_valkey.url) as client:
        assert client.get("b") == b"2"


def test_another_url_of_any_kind_is_used_from_the_next_command_on(
    memory: RedisClient, fresh_valkey: Valkey
) -> None:
    memory.execute("SET", "a", "plain")
    with ClusterNode() as node, Sentinel(fresh_valkey) as sentinel:
        node.take_slots()
        memory.use(f"redis+cluster://127.0.0.1:{node.port}")
        assert memory.execute("GET", "a") is None
        memory.use(f"redis+sentinel://127.0.0.1:{sentinel.port}/weir/0")
        assert memory.execute("GET", "a") == b"plain"
    with pytest.raises(RedisUnavailable):
        memory.use(f"redis://127.0.0.1:{free_port()}/0")
    assert memory.execute("GET", "a") == b"plain", "one that does not work changes nothing"


def test_a_cluster_of_one_node_is_like_a_redis_without_cluster() -> None:
    with ClusterNode() as node:
        node.take_slots()
        memory = RedisClient(node.url)
        memory.execute("SET", "a", "1")
        assert memory.problem() is None, "it needs no cluster URL"
