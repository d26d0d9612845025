"""Where Weir listens: HOST and PORT, as Gunicorn takes them."""

from __future__ import annotations

import socket

from webapp.settings import Settings, SettingsError


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
