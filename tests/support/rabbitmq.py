"""RabbitMQ, from Debian's package `rabbitmq-server`."""

from __future__ import annotations

import os
import shutil
import socket
from typing import Any

from tests.support.servers import Server, free_port


class RabbitMQ(Server):
    """RabbitMQ without its plugins; its queues outlive a stop."""

    # The script behind Debian's wrapper, which would give its own user and folders.
    program = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def _command(self) -> list[str]:
        assert self.program, "RabbitMQ is not installed"
        # Its own port mapper: otherwise it would start one that stays.
        return ["sh", "-c", f"epmd & exec {self.program}"]

    def _process_options(self) -> dict[str, Any]:
        plugins = self.folder / "enabled_plugins"
        plugins.write_text("[].")
        (self.folder / "rabbitmq.conf").write_text("log.console = true\nlog.file = false\n")
        env = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"weir{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            # One scheduler: it would start one for each core.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        return {"cwd": self.folder, "env": env}

    def __init__(self) -> None:
        super().__init__()
        self._epmd_port, self._distribution_port = free_port(), free_port()

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"AMQP\0\0\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False
