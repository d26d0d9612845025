"""The process of `flask worker`: it works on batches and jobs, and serves no requests."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

# What is imported stays: looking for garbage among it takes a fifth of the start.
gc.disable()

import gevent  # noqa: E402

from webapp.application import create_app  # noqa: E402
from webapp.batches.process_priority import lower_priority  # noqa: E402
from webapp.batches.worker_loop import Executor, WorkerLoop  # noqa: E402
from webapp.observability import logs, tracing  # noqa: E402
from webapp.observability.uncaught import log_the_uncaught  # noqa: E402
from webapp.settings import SettingsError, load  # noqa: E402

if TYPE_CHECKING:
    from webapp.services import Services

log = logging.getLogger("webapp.batch_worker")  # its __name__ is another one when it is run


def executor_of(services: Services) -> Executor:
    return services.executor


def main(executor_of: Callable[[Services], Executor] = executor_of) -> None:
    """Work until SIGTERM or SIGINT."""
    lower_priority()  # requests come first
    try:
        settings = load()
        logs.configure(settings.log_level, settings.secrets, settings.log_redact)
        log_the_uncaught()
        services: Services = create_app(settings, batch_worker=True).extensions["weir"]
    except SettingsError as error:
        sys.exit(str(error))
    # gevent would keep the stack that started each greenlet, for those who debug it.
    gevent.config.track_greenlet_tree = False
    tracing.start(settings.otlp_endpoint)
    lifecycle, heartbeats = services.lifecycle, services.heartbeats

    def prepare() -> bool:
        if lifecycle.prepared:
            heartbeats.register_batch_worker()
        return lifecycle.prepared

    loop = WorkerLoop(
        executor_of(services),
        prepare,
        settings.broker,
        verify_certificate=settings.platform != "heroku",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, loop.stop)
    lifecycle.start()
    # As Gunicorn's workers: imported objects are no garbage, and little else becomes any.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()
    log.info("Working on batches and jobs, %s a broker", "with" if settings.broker else "without")
    loop.run()
    lifecycle.drain()
    loop.finish(max(0.0, lifecycle.grace_left))
    lifecycle.stop()
    tracing.close()
    logging.shutdown()
    # At once: neither a connection to the broker nor a library's thread may hold it up.
    os._exit(0)


if __name__ == "__main__":
    main()
