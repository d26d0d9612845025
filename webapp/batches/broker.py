"""The broker as Celery knows it: one queue, whose messages only say that a batch has work.

Celery is imported on first use: serving processes without a broker never need it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from webapp.threads import run_in_thread

QUEUE = "weir-batches"
TASK = "weir.work"
# Seconds after which a message that was not acknowledged comes again. A task takes no time.
VISIBILITY_TIMEOUT = 60
# Of operations on the connection, where it has sockets of its own.
SOCKET_TIMEOUT = 1.0
# How to connect without the pauses of 2 s that Kombu makes.
ONE_RETRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def make_celery(url: str, *, verify_certificate: bool = True) -> Any:
    """A Celery application for the broker at `url`, without tasks."""
    return run_in_thread(partial(_make_celery, url, verify_certificate))


def _make_celery(url: str, verify_certificate: bool) -> Any:
    from celery import Celery
    from kombu import Exchange, Queue

    class WeirCelery(Celery):  # type: ignore[misc]
        """Celery that reads no broker from the environment (CELERY_BROKER_URL)."""

        def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
            return super().connection_for_read(url or self.conf.broker, **options)

        def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
            return super().connection_for_write(url or self.conf.broker, **options)

    celery = WeirCelery("weir", set_as_current=False)
    celery.conf.update(
        broker=url,
        broker_use_ssl=_tls(url, verify_certificate),
        broker_transport_options=_transport_options(url.partition("://")[0]),
        # A connection is lost at once; who has lost it says when it is made again.
        broker_connection_retry=False,
        broker_connection_retry_on_startup=False,
        task_default_queue=QUEUE,
        task_queues=(Queue(QUEUE, Exchange(""), routing_key=QUEUE),),
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        # Otherwise a message whose worker is told to stop may be lost with it.
        task_reject_on_worker_lost=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )
    return celery


def _transport_options(scheme: str) -> dict[str, Any]:
    match scheme:
        case "redis" | "rediss":
            return {
                "global_keyprefix": "weir:broker:",
                "visibility_timeout": VISIBILITY_TIMEOUT,
                # With a shorter one, messages of killed workers never come again.
                "polling_interval": 10,
                "socket_connect_timeout": SOCKET_TIMEOUT,
                "socket_keepalive": True,
            }
        case "sqs":
            return {
                "region": _aws_region(),
                "visibility_timeout": VISIBILITY_TIMEOUT,
                "wait_time_seconds": 20,
                "client-config": {
                    "connect_timeout": 5,
                    "read_timeout": 30,
                    "retries": {"total_max_attempts": 2},
                },
            }
        case "azureservicebus":
            return {"peek_lock_seconds": VISIBILITY_TIMEOUT}
        case "gcpubsub":
            return {"ack_deadline_seconds": VISIBILITY_TIMEOUT, "queue_name_prefix": ""}
        case _:
            return {"confirm_publish": True}


def _aws_region() -> str | None:
    """As secrets of AWS have it: boto3 by itself does not know AWS_REGION."""
    import botocore.session

    from webapp.secrets_managers.aws import REGION

    region = botocore.session.Session(session_vars={"region": REGION}).get_config_variable("region")
    return cast("str | None", region)


def _tls(url: str, verify_certificate: bool) -> dict[str, Any] | None:
    """What makes Kombu verify certificates: it asks nothing of Redis's, and not for whom RabbitMQ's
    was made."""
    scheme, _, rest = url.partition("://")
    if scheme == "amqps":
        return {"server_hostname": None}  # Kombu puts the host of the URL in
    if scheme == "rediss" and "ssl_" not in rest.partition("?")[2]:
        return {"ssl_cert_reqs": "required" if verify_certificate else "none"}
    return None
