"""Translates failures of connections to providers and of their answers."""

from __future__ import annotations

from webapp.errors import ProviderFailed, ProviderTimedOut, WeirError
from webapp.providers.answers import NOT_UNDERSTOOD
from webapp.providers.http import BROKEN, AnswerTooLong, LostSend, NotReached
from webapp.providers.server_sent_events import EventTooLong


def translate_failure(error: Exception) -> WeirError | None:
    """The WeirError for a failure of the connection or of its answer, whatever the protocol."""
    if isinstance(error, NotReached):
        unreachable = ProviderFailed("The provider is unreachable.").uncharged()
        unreachable.unreachable = True
        return unreachable
    if isinstance(error, LostSend):
        lost = ProviderFailed("The provider had closed the connection.").not_counted()
        lost.lost_send_seconds = error.seconds
        return lost
    if isinstance(error, TimeoutError):
        return ProviderTimedOut("The provider timed out.")
    if isinstance(error, AnswerTooLong | EventTooLong):
        return ProviderFailed("The provider's answer is too large.")
    if isinstance(error, BROKEN):
        return ProviderFailed("The connection broke during the provider's answer.")
    if isinstance(error, ValueError):
        return ProviderFailed(NOT_UNDERSTOOD)
    return None
