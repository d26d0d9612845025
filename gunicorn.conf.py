"""Gunicorn's configuration, with a reason for each number."""

import gc
import logging
import os
import resource
import shutil
import sys
from pathlib import Path

from webapp import local_model
from webapp.listening import bind_address, wait_for_ports
from webapp.observability import logs, metrics_folders
from webapp.observability.uncaught import log_the_uncaught
from webapp.settings import SettingsError, load_in_master
from webapp.worker_count import worker_count

try:
    settings = load_in_master()
    bind = bind_address(settings)
except SettingsError as error:
    sys.exit(str(error))

# Before anything is logged, and in the master too.
logs.configure(settings.log_level, settings.secrets, settings.log_redact, settings.log_sample)
log_the_uncaught()

wsgi_app = "wsgi:app"
workers, _why = worker_count(settings)

# Greenlets: thousands of idle streams in one process.
worker_class = "webapp.worker.WeirWorker"
# The same parser everywhere: Gunicorn would use gunicorn-h1c if installed, but that has no wheels.
http_parser = "python"
worker_connections = 10_000
backlog = 4096
# Limits the heartbeat, not requests: a worker that hangs this long is replaced.
timeout = 60
# Longer than the idle timeout of load balancers, so that they close first: 60 s are common,
# Heroku's router has 90 s, and one that waits for whole answers has more than their deadline.
keepalive = max(100, int(settings.plain_deadline) + 30)
graceful_timeout = int(settings.shutdown_grace)
# The heartbeat file in memory: on a slow disk, a worker would seem to hang.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
control_socket_disable = True
# The system's sendfile() would wait for a client that reads nothing for as long as it likes.
sendfile = False

# Each worker writes its metrics into files of this folder, in memory if possible. A second master,
# which USR2 starts, needs its own folder; a reload does not.
METRICS = "PROMETHEUS_MULTIPROC_DIR"
if METRICS not in os.environ or "GUNICORN_PID" in os.environ:
    try:
        os.environ[METRICS] = str(metrics_folders.create(worker_tmp_dir))
    except OSError as error:
        sys.exit(f"Weir does not start. Please set TMPDIR to a folder it can write: {error}")
metrics_folder = Path(os.environ[METRICS])

logger_class = "webapp.observability.logs.WeirGunicornLogger"
accesslog = None
# Proxies are trusted by count (TRUSTED_PROXIES), not by address.
forwarded_allow_ips = ""


MACOS_OPEN_MAX = 10_240


def on_starting(server):
    """Wait for the port; allow two file descriptors per stream; start the local model."""
    # The master that USR2 starts inherits sockets, and so does one that systemd holds the port for.
    inherits = "GUNICORN_FD" in os.environ or os.environ.get("LISTEN_PID") == str(os.getpid())
    if not inherits and (taken := wait_for_ports(server.address)):
        sys.exit(taken)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except ValueError:  # macOS refuses "unlimited", though it is its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (MACOS_OPEN_MAX, hard))
    server.log.info("Workers: %s (%s)", workers, _why)
    if settings.web_concurrency and settings.web_concurrency != workers:
        server.log.warning(_why)
    if settings.wants_local_model:
        if local_model.is_installed():
            local_model.start()
        else:
            server.log.warning(local_model.NOT_INSTALLED)


def when_ready(server):
    """Remove the metrics of masters that were killed. Their workers have let go of the port."""
    metrics_folders.remove_abandoned(metrics_folder.parent)


def pre_fork(server, worker):
    """Leave what the master has imported out of garbage collection, which would write to it: so
    master and workers share that memory."""
    gc.freeze()


def post_fork(server, worker):
    """Leave the local model's life to the master."""
    local_model.leave_to_master()


def post_worker_init(worker):
    """Start logging, traces, then the database, before the first request is accepted."""
    import gevent

    from webapp.observability import logs, metrics, request_context, tracing

    # gevent would keep the stack that started each greenlet, for those who debug it.
    gevent.config.track_greenlet_tree = False
    tracing.start(settings.otlp_endpoint)
    metrics.begin(metrics_folder, settings.tiers)
    logs.add_request_ids(request_context.current_id)
    services = worker.wsgi.extensions["weir"]
    services.lifecycle.start()
    if not settings.production:
        from webapp import banner

        # A worker that replaces another has a higher number.
        banner.announce(services, first_worker=worker.age == 1)
    # Exclude imported objects from garbage collection: scanning them stalled all streams for
    # 100 ms every few seconds. Collect less often: requests create hardly any cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def worker_exit(server, worker):
    """Write the last counters and traces."""
    application = getattr(worker, "wsgi", None)
    if application is not None:
        application.extensions["weir"].lifecycle.stop()
    from webapp.observability import tracing

    tracing.close()
    logging.shutdown()


def child_exit(server, worker):
    """Keep the counts of a dead worker, but not its gauges."""
    from webapp.observability import metrics_files

    metrics_files.add_up(metrics_folder, worker.pid)


def on_exit(server):
    """End the local model; remove the metrics of this master."""
    local_model.stop()
    shutil.rmtree(metrics_folder, ignore_errors=True)
