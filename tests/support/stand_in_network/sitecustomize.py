"""Stands for the names and the routes of the Internet, for a server that the tests start.

The file NETWORK_FILE has `names`, the addresses that each lookup of a name gets in turn (the last
ones from then on), and `routes`, the local port that leads from an address with port 443. Both are
read with each use; what is not there is left to the system. Lookups of these names and connections
to port 443 are appended to the file NETWORK_FILE.log.

Python imports this by itself where its folder is in PYTHONPATH. The server's own code, checks and
TLS are as always.
"""

from __future__ import annotations

import _socket
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from gevent import socket

_file = Path(os.environ["NETWORK_FILE"])
_system_lookup = _socket.getaddrinfo
_connect = socket.socket.connect
_lookups: Counter[str] = Counter()


def _note(what: str) -> None:
    with _file.with_name(f"{_file.name}.log").open("a") as log:
        log.write(f"{what}\n")


def _lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    answers = json.loads(_file.read_text())["names"].get(name)
    if not answers:
        return _system_lookup(host, port, *args, **kwargs)
    addresses = answers[min(_lookups[name], len(answers) - 1)]
    _lookups[name] += 1
    _note(f"lookup {name}")
    return [one for address in addresses for one in _system_lookup(address, port, *args, **kwargs)]


def _routed(self: Any, address: Any) -> Any:
    if isinstance(address, tuple) and address[1] == 443:
        _note(f"connect {address[0]}")
        port = json.loads(_file.read_text())["routes"].get(address[0])
        if port is None:
            raise ConnectionRefusedError(f"no route to {address[0]}")
        address = ("127.0.0.1", port)
    return _connect(self, address)


_socket.getaddrinfo = _lookup  # type: ignore[assignment]
socket.socket.connect = _routed  # type: ignore[method-assign]
