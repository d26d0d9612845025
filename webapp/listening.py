"""Where Weir listens: HOST and PORT as Gunicorn takes them, and whether the port is free."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable

from webapp.settings import Settings, SettingsError

# Seconds, in which whoever stops can let go of a port. Gunicorn tries for as long.
TAKEN_TIMEOUT = 5.0


def bind_address(settings: Settings) -> str:
    """The address and the port. Raises SettingsError if this machine has no such address.

    Gunicorn would try for five seconds, and it takes no name that has only an IPv6 address.
    """
    try:
        found = socket.getaddrinfo(settings.host, None, type=socket.SOCK_STREAM)
        family, kind, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        with socket.socket(family, kind) as probe:
            probe.bind(address)  # at any port
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            "HOST must be an address of this machine, such as 0.0.0.0 or ::, or a name of one "
            f"({settings.host}: {error})"
        ) from None
    host = str(address[0])
    return f"[{host}]:{settings.port}" if family == socket.AF_INET6 else f"{host}:{settings.port}"


def wait_for_ports(addresses: Iterable[object]) -> str | None:
    """Wait until Gunicorn can bind its addresses. Returns what to do about a port that stays taken.

    Gunicorn would log eleven lines, and none of them names PORT.
    """
    give_up_at = time.monotonic() + TAKEN_TIMEOUT
    for address in addresses:
        if not isinstance(address, tuple):
            continue  # a unix socket, a file descriptor
        while _is_taken(address):
            if time.monotonic() > give_up_at:
                port = address[1]
                return (
                    f"Weir does not start. Port {port} is taken, by another program or by a Weir "
                    f"that runs already. To use another one: PORT={port + 1} make run"
                )
            time.sleep(0.1)
    return None


def _is_taken(address: tuple[str, int]) -> bool:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Gunicorn does
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # Gunicorn tells of all others
    return False
