"""Why Redis cannot be used, in words that lead to the fix. They contain no host and no secret."""

from __future__ import annotations

import re
from typing import NamedTuple


class RedisProblem(NamedTuple):
    """What is wrong, and what to do about it."""

    found: str
    advice: str


UNREACHABLE = RedisProblem("Redis is unreachable", "Check REDIS_URL, and that Redis is running.")
REFUSED = RedisProblem("Redis refuses a script", 'Try EVAL "return 1" 0 in redis-cli.')
CLUSTER_NODE = RedisProblem(
    "REDIS_URL names one node of a cluster",
    "Write redis+cluster:// (or rediss+cluster://) instead of redis:// in REDIS_URL.",
)
NOT_PERMITTED = RedisProblem(
    "the Redis user may not run what Weir needs",
    "Give it the permissions of docs/operating.md (PostgreSQL and Redis): ACL SETUSER … ~weir:* "
    "+@read +@write +@scripting +@connection +time.",
)
# By what matches the error: its class (redis-py's) and its text.
_KNOWN = [
    (r"NoPermission|no permissions|ACL failure|can't run this command", NOT_PERMITTED),
    (r"MovedError|AskError|CrossSlot|not allowed in cluster mode", CLUSTER_NODE),
    (
        r"ReadOnlyError|MasterDown|read only replica|NOREPLICAS",
        RedisProblem(
            "Redis is a read-only replica, or has too few replicas, and refuses to write",
            "Name the primary in REDIS_URL, or let sentinels find it: redis+sentinel://.",
        ),
    ),
    (
        r"AuthenticationError|AuthenticationWrongNumber|NOAUTH|WRONGPASS",
        RedisProblem(
            "Redis refuses the user or the password",
            "Check them in REDIS_URL: redis://user:password@host, special characters "
            "percent-encoded, redis://:password@host without a user.",
        ),
    ),
    (
        r"OutOfMemory|OOM command",
        RedisProblem(
            "Redis is full and evicts nothing",
            "Raise its maxmemory, or set its maxmemory-policy to volatile-lru.",
        ),
    ),
    (
        r"ClusterDown|CLUSTERDOWN|SlotNotCovered",
        RedisProblem("the Redis cluster is down", "See CLUSTER INFO: each slot needs a node."),
    ),
    (
        r"Cluster mode is not enabled",
        RedisProblem(
            "REDIS_URL says cluster, but this Redis is none",
            "Write redis:// (or rediss://) instead of redis+cluster:// in REDIS_URL.",
        ),
    ),
    (
        r"BusyLoading",
        RedisProblem("Redis still loads its data", "Wait; Weir needs none of it."),
    ),
    (
        r"MISCONF",
        RedisProblem(
            "Redis cannot save its data, so it refuses to write",
            "Free space on its disk, or turn saving off: Weir needs none of it.",
        ),
    ),
    (
        r"max number of clients",
        RedisProblem(
            "Redis accepts no more connections",
            "Raise its maxclients. Each worker of Weir holds one connection.",
        ),
    ),
    (
        r"DB index is out of range|Invalid Database",
        RedisProblem("Redis has no such database", "Check the number at the end of REDIS_URL."),
    ),
    (
        r"[Uu]nknown command",
        RedisProblem(
            "this Redis lacks commands that Weir needs",
            "Weir needs Redis 6 or newer, or Valkey, with EVAL and EVALSHA.",
        ),
    ),
]


def problem_of(error: BaseException) -> RedisProblem | None:
    """The state of Redis that made a command fail; None if only that command is at fault."""
    described = f"{type(error).__name__} {error}"
    for pattern, problem in _KNOWN:
        if re.search(pattern, described):
            if problem is NOT_PERMITTED and (command := re.search(r"'([\w|-]+)'", described)):
                found = f"the Redis user may not run '{command[1]}'"
                return RedisProblem(found, problem.advice)
            return problem
    return None
