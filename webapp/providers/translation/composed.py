"""Two translations, one after the other: for a client and a provider with a format in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from webapp.errors import UnsupportedParameter
from webapp.llm.messages import Answer, ModelRequest, Usage

if TYPE_CHECKING:
    from webapp.providers.translation import StreamWriter, Translation


def composed(outer: Translation, inner: Translation, names: Mapping[str, str]) -> Translation:
    """The client speaks the first format of `outer`, the provider the second one of `inner`.

    `names` are the client's names of fields that an error of `inner` may name.
    """

    def asked(request: ModelRequest, model: str) -> ModelRequest:
        between = outer.request(request, model)
        try:
            return inner.request(between, model)
        except UnsupportedParameter as error:
            raise _renamed(error, names) from None

    def answer(answer: Answer, request: ModelRequest, model: str) -> str:
        between = inner.answer(answer, outer.request(request, model), model)
        return outer.answer(replace(answer, body=between), request, model)

    def writer(request: ModelRequest, model: str) -> StreamWriter:
        between = inner.writer(outer.request(request, model), model)
        return _ComposedWriter(outer.writer(request, model), between)

    return replace(outer, request=asked, answer=answer, writer=writer)


class _ComposedWriter:
    """Writes in one format what another writer has written in the one between."""

    def __init__(self, outer: StreamWriter, inner: StreamWriter) -> None:
        self._outer = outer
        self._inner = inner

    def take(self, data: str) -> list[str]:
        return [event for chunk in self._inner.take(data) for event in self._outer.take(chunk)]

    def end(self, usage: Usage) -> list[str]:
        chunks = self._inner.end(usage)
        events = [event for chunk in chunks for event in self._outer.take(chunk)]
        return [*events, *self._outer.end(usage)]


def _renamed(error: UnsupportedParameter, names: Mapping[str, str]) -> UnsupportedParameter:
    """The error in the client's words, as far as these are known."""
    written = error.parameter
    name = names.get(written.split(".")[0])
    if name is None:
        return error
    renamed = UnsupportedParameter(name, error.message.replace(written, name))
    details = error.details if isinstance(error.details, Mapping) else {}
    renamed.details = {name: details.get(written)}
    return renamed
