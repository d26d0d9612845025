"""How Gunicorn serves Weir. Every number says why."""

import gc
import logging
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from webapp.observability import logs
from webapp.observability.uncaught import log_the_uncaught
from webapp.settings import SettingsError, load
from webapp.worker_count import worker_count

try:
    settings = load()
except SettingsError as error:
    sys.exit(str(error))

# Before the first line, and in the master too.
logs.configure(settings.log_level, settings.secrets, settings.log_redact, settings.log_sample)
log_the_uncaught()

wsgi_app = "wsgi:app"
bind = f"{settings.host}:{settings.port}"
workers, _why = worker_count(settings)

# Greenlets: thousands of idle streams in one process.
worker_class = "webapp.worker.WeirWorker"
# The same parser everywhere: gunicorn-h1c would be used where it is installed, but has no wheels.
http_parser = "python"
worker_connections = 10_000
backlog = 4096
# A heartbeat, not a limit on requests: a worker that hangs this long is replaced.
timeout = 60
# Longer than the idle time of common load balancers (60 s), so that they close first.
keepalive = 75
graceful_timeout = int(settings.shutdown_grace)
# The heartbeat file in memory: on a slow disk it would look like a hanging worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
control_socket_disable = True

# Each worker writes its metrics into files of this folder, in memory where that is possible. A
# second master, which a USR2 starts beside this one, needs a folder of its own; a reload does not.
METRICS = "PROMETHEUS_MULTIPROC_DIR"
if METRICS not in os.environ or "GUNICORN_PID" in os.environ:
    os.environ[METRICS] = tempfile.mkdtemp(prefix="weir-metrics-", dir=worker_tmp_dir)
metrics_folder = Path(os.environ[METRICS])

logger_class = "webapp.observability.logs.WeirGunicornLogger"
accesslog = None
# Proxies are trusted by count (TRUSTED_PROXIES), not by address.
forwarded_allow_ips = ""


def on_starting(server):
    """Room for two file descriptors a stream; and why there are this many workers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server.log.info("Workers: %s (%s)", workers, _why)
    if settings.web_concurrency and settings.web_concurrency != workers:
        server.log.warning(_why)


def post_worker_init(worker):
    """Logging, traces, then the database, before the first request is accepted."""
    from webapp.observability import logs, metrics, request_context, tracing

    tracing.start(settings.otlp_endpoint)
    metrics.begin(metrics_folder, settings.tiers)
    logs.add_request_ids(request_context.current_id)
    worker.wsgi.extensions["weir"].lifecycle.start()
    # What was imported stays: to look through all of it took 100 ms every few seconds, in which
    # no stream went on. And look less often: requests leave hardly a cycle behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def worker_exit(server, worker):
    """The last counters."""
    application = getattr(worker, "wsgi", None)
    if application is not None:
        application.extensions["weir"].lifecycle.stop()
    from webapp.observability import tracing

    tracing.close()
    logging.shutdown()


def child_exit(server, worker):
    """What a worker that is gone has counted stays; what it had in use does not."""
    from webapp.observability import metrics_files

    metrics_files.add_up(metrics_folder, worker.pid)


def on_exit(server):
    """The metrics of this master end with it."""
    shutil.rmtree(metrics_folder, ignore_errors=True)
