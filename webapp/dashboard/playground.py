"""The playground: a chat with one of the user's own keys, without its secret."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

import gevent
from flask import Response, g, request

from webapp import json_codec
from webapp.accounts.keys import LARGEST_ID
from webapp.admission.limits import consume
from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, limit_body, read_json, validated
from webapp.api.chat import describe, to_model_request
from webapp.api.schemas import ChatBody
from webapp.dashboard.pages import Blueprint, number_of, page
from webapp.dashboard.session import members, user
from webapp.dashboard.visibility import JsonObject, own_ids, own_keys, usage_bars
from webapp.errors import AddressNotAllowed, NotFound, WeirError
from webapp.llm.ports import Provider
from webapp.llm.routing import Route, Router
from webapp.observability import request_context
from webapp.services import services

blueprint = members(Blueprint("playground", __name__))

LISTED = 100  # models of one provider
LISTING_WAIT = 1.0  # seconds
EXAMPLE = "What is a weir?"
TEMPERATURE = 0.7
ENDPOINT = "/dashboard/playground"


@blueprint.get("/playground")
def playground() -> Any:
    """Try a prompt"""
    return _page({}, [])


@blueprint.post("/playground")
def send() -> Any:
    """The next turn of a chat without JavaScript, as a page with the whole answer"""
    form = {name: value.strip() for name, value in request.form.items() if value.strip()}
    turns, answer, error = _turns(form.get("history", "[]")), None, None
    try:
        _act_as(number_of(form.get("key"), LARGEST_ID) or 0)
        answer, _, headers = _answer(_body_of(form) | {"history": turns})
    except WeirError as failure:
        request_context.current().ended_with(failure)
        error = failure
    else:
        turns = [
            *turns,
            {"role": "user", "content": form["message"]},
            {"role": "assistant", "content": answer["response"]},
        ]
        answer |= {"cache": headers["X-Cache"]}
    response = _page(form, turns, answer, error)
    response.status_code = error.status if error else 200
    return response


@blueprint.post("/playground/<int:key_id>")
def chat(key_id: int) -> Any:
    """POST /chat with this key, its limits and its budget"""
    limit_body(MEBIBYTE)
    _act_as(key_id)
    return _answer(read_json())


def _act_as(key_id: int) -> None:
    """Make this request one of a key of the user's. Raises NotFound and AddressNotAllowed."""
    principal = services().identities.of_key_id(key_id) if key_id in own_ids() else None
    if principal is None:
        raise NotFound("This key does not belong to you, or is no longer active.")
    if not principal.allowance.allows_address(request.remote_addr):
        raise AddressNotAllowed
    g.principal = principal
    request_context.current().endpoint = ENDPOINT


def _answer(sent: Any) -> Any:
    """What POST /chat answers."""
    body = validated(ChatBody(), sent)
    consume()
    g.admitted = True
    return answers.native(to_model_request(body), describe)


def _page(
    form: Mapping[str, str],
    turns: list[JsonObject],
    answer: JsonObject | None = None,
    error: WeirError | None = None,
) -> Response:
    """The page with what was entered, the turns so far, and what the last one ended with."""
    groups, default = _models()
    named = {"model": default} if default else {}
    shared = {"temperature": TEMPERATURE, "stream": True}
    messages = [{"role": "user", "content": EXAMPLE}]
    context = request_context.current()
    return page(
        "playground.html",
        keys=_usable(),
        groups=groups,
        default=default,
        has_routes=bool(services().gateway.router.routes),
        example=EXAMPLE,
        temperature=TEMPERATURE,
        completion={**named, "messages": messages, **shared},
        chat={"message": EXAMPLE, **named, **shared},
        base_url=request.url_root.rstrip("/"),
        sent=form,
        turns=turns,
        answer=answer,
        error=error,
        request_id=context.request_id,
        milliseconds=context.milliseconds,
    )


def _turns(text: str) -> Any:
    """The turns that the form sent along; what they hold is checked with the request."""
    try:
        turns = json_codec.loads(text)
    except (ValueError, RecursionError):
        return []
    return turns if isinstance(turns, list) else []


def _body_of(form: Mapping[str, str]) -> JsonObject:
    """The body of POST /chat; a number that is none is left for its schema to refuse."""
    body: JsonObject = {"message": form.get("message", "")}
    if "system" in form:
        body["system"] = form["system"]
    if model := form.get("model") or form.get("other_model"):
        body["model"] = model
    for name, read in (("temperature", float), ("max_tokens", int)):
        if name in form:
            try:
                body[name] = read(form[name])
            except ValueError:
                body[name] = form[name]
    return body


@blueprint.get("/playground/<int:key_id>/bars")
def bars(key_id: int) -> Any:
    """The usage bars of this key, and which of the models it may not use"""
    principal = services().identities.of_key_id(key_id) if key_id in own_ids() else None
    if principal is None:
        return page("bars.html", bars=[])
    refused, allowance = [], principal.allowance
    if allowance.models is not None:
        router, (groups, _) = services().gateway.router, _models()
        names = chain.from_iterable(names for _, names in groups)
        refused = [n for n in names if not allowance.allows_model(*router.resolve(n).names)]
    return page("bars.html", bars=usage_bars(principal), refused=refused)


def _usable() -> list[JsonObject]:
    """The keys to choose from; the account's own comes first."""
    account = user()
    own = {"id": account.key.id, "name": f"account {account.username}", "tier": account.key.tier}
    return [own, *(key for key in own_keys() if key["state"] == "works")]


def _models() -> tuple[list[tuple[str, list[str]]], str | None]:
    """The names of models in titled groups, and the default's, as far as they are known in time:
    a provider that hangs must not delay the page."""
    router = services().gateway.router
    if router.routes:
        return [("Routes", [route.name for route in router.routes])], router.resolve(None).name
    listing = {one.name: gevent.spawn(_names, router, one) for one in router.providers}
    resolving = gevent.spawn(router.resolve, None)
    gevent.joinall([*listing.values(), resolving], timeout=LISTING_WAIT)
    listed = {name: job.value for name, job in listing.items() if job.value}
    default = _name_of(resolving.value, listed) if resolving.value else None
    if default and default not in chain.from_iterable(listed.values()):
        listed = {"Default": [default], **listed}
    return list(listed.items()), default


def _name_of(route: Route, listed: Mapping[str, list[str]]) -> str:
    """The name of a model as it is listed: that of the first provider has no prefix. Where no
    provider is configured, more targets follow the first one."""
    target = route.targets[0]
    bare = target.model in listed.get(target.provider.name, [])
    return target.model if bare else route.name


def _names(router: Router, provider: Provider) -> list[str]:
    try:
        return [model.name for model in islice(router.names_of(provider), LISTED)]
    except WeirError:
        return []
