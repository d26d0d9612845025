"""Models of all providers that LangChain supports, with OpenAI's requests and answers."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gevent.lock import BoundedSemaphore

from webapp.base_url import BaseURL
from webapp.errors import (
    ModelNotFound,
    ProviderError,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderTimedOut,
    UnsupportedParameter,
    WeirError,
)
from webapp.library_internals import langchain_packages, make_http_client
from webapp.llm.tokens import estimate_input_tokens
from webapp.providers.answers import CUT
from webapp.providers.base import BaseProvider
from webapp.providers.chat_answer import write_answer, write_chunks
from webapp.providers.chat_request import ParsedChatRequest, read_request
from webapp.providers.http import BROKEN, RefusedByStatus, retry_after_of
from webapp.providers.reported_errors import translate_status
from webapp.threads import run_in_thread

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import Runnable

    from webapp.llm.messages import ModelRequest

MAX_MODELS = 100
UNREADABLE = "The provider's answer cannot be read."

# The names of each parameter in the fields of LangChain's models.
FIELDS = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "max_tokens": ("max_tokens", "max_output_tokens", "max_new_tokens", "num_predict"),
}
SAMPLING = {"temperature", "top_p"}


class LangChainProvider(BaseProvider):
    """The models of one provider, by its name in LangChain's `init_chat_model`."""

    operations = frozenset({"chat/completions"})
    has_free_call = False

    def __init__(
        self, name: str, model_provider: str, *, api_key: str, address: BaseURL, timeout: float
    ) -> None:
        super().__init__(name, timeout)
        self.identity = f"langchain:{model_provider}@{address.url}?{address.query}".rstrip("?")
        self.max_input_tokens = 100_000
        self.kind = f"langchain:{model_provider}"
        self._model_provider = model_provider
        self._api_key = api_key
        self._address = address
        self._keep_private(api_key, address)
        self._making = BoundedSemaphore()
        self._chat_models: dict[str, BaseChatModel] = {}

    def _prepare(self, model: str) -> None:
        """The first call of a process takes seconds to import its packages."""
        self._chat_model(model)

    def _complete(self, request: ModelRequest, model: str) -> str:
        parsed = self._parsed(request)
        runnable, messages = self._prepared(parsed, model, request.native)
        with _langchain():
            return write_answer(runnable.invoke(messages, stop=parsed.stop), model)

    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        parsed = self._parsed(request)
        runnable, messages = self._prepared(parsed, model, request.native)
        with closing(_parts(runnable, messages, parsed.stop)) as parts:
            yield from write_chunks(parts, model, lambda: estimate_input_tokens(request.body))

    def _list_models(self) -> list[dict[str, Any]]:
        return []

    def _translate(self, error: Exception) -> WeirError | None:
        chain = list(_chain(error))
        # The SDK wraps the timeout that ended the wait.
        translated = next((cause for cause in chain if isinstance(cause, WeirError)), None)
        translated = translated or next(filter(None, map(_translate_one, chain)), None)
        if isinstance(translated, ProviderError) and any(map(_not_reached, chain)):
            translated.uncharged().unreachable = True
        return translated

    def use_key(self, api_key: str) -> None:
        self._keep_private(api_key, self._address)
        self._api_key = api_key
        # After a model that is being made with the old key.
        with self._making:
            self._chat_models.clear()
        self.latest = None

    def _parsed(self, request: ModelRequest) -> ParsedChatRequest:
        # What a translated request need not say.
        left_out = {"reasoning_effort", "verbosity"} & request.defaults
        body = {name: value for name, value in request.body.items() if name not in left_out}
        parsed = read_request(body)
        if request.output_cap is not None:
            return replace(parsed, max_tokens=request.output_cap)
        return parsed

    def _prepared(
        self, parsed: ParsedChatRequest, model: str, native: bool
    ) -> tuple[Runnable[LanguageModelInput, AIMessage], LanguageModelInput]:
        chat_model = self._with_parameters(self._chat_model(model), parsed, native)
        from langchain_core.messages import convert_to_messages

        with _langchain():
            return self._with_tools(chat_model, parsed), convert_to_messages(parsed.messages)

    def _chat_model(self, model: str) -> BaseChatModel:
        if made := self._chat_models.get(model):
            return made
        with self._making:
            if model not in self._chat_models:
                if len(self._chat_models) >= MAX_MODELS:
                    self._chat_models.clear()
                self._chat_models[model] = run_in_thread(lambda: self._make(model))
            return self._chat_models[model]

    def _make(self, model: str) -> BaseChatModel:
        with _setting_up():
            from langchain.chat_models import init_chat_model
            from langsmith.run_trees import configure

            configure(enabled=False)
            made: BaseChatModel = init_chat_model(
                model,
                model_provider=self._model_provider,
                timeout=self._timeout,
                max_retries=0,
                **self._address_options(),
            )
            if "stream_usage" in type(made).model_fields:
                made = made.model_copy(update={"stream_usage": True})
            make_http_client(made)
            return made

    def _address_options(self) -> dict[str, Any]:
        options = {"api_key": self._api_key, "base_url": self._address.complete}
        return {name: value for name, value in options.items() if value}

    def _with_parameters(
        self, chat_model: BaseChatModel, parsed: ParsedChatRequest, native: bool
    ) -> BaseChatModel:
        """A copy with these parameters. It is cheap, as it shares all other fields."""
        if parsed.user is not None:
            raise UnsupportedParameter("user")
        update: dict[str, Any] = {}
        for parameter, fields in FIELDS.items():
            value = getattr(parsed, parameter)
            if value is not None and not _lacks(chat_model, parameter, value, native):
                update[_field(chat_model, parameter, fields)] = value
        return chat_model.model_copy(update=update) if update else chat_model

    def _with_tools(
        self, chat_model: BaseChatModel, parsed: ParsedChatRequest
    ) -> Runnable[LanguageModelInput, AIMessage]:
        if not parsed.tools or parsed.tool_choice == "none":
            return chat_model
        options: dict[str, Any] = {}
        if parsed.tool_choice:
            options["tool_choice"] = parsed.tool_choice
        if not parsed.parallel_tool_calls:
            if "parallel_tool_calls" not in inspect.signature(chat_model.bind_tools).parameters:
                raise UnsupportedParameter("parallel_tool_calls")
            options["parallel_tool_calls"] = False
        try:
            return chat_model.bind_tools(parsed.tools, **options)
        except NotImplementedError:
            raise UnsupportedParameter("tools") from None


def check_installed(model_provider: str) -> str | None:
    """The message about a missing package of this LangChain provider; None if none is missing."""
    packages = langchain_packages()
    if model_provider not in packages:
        known = ", ".join(sorted(packages))
        return f"Unknown LangChain provider {model_provider!r}. Known: {known}."
    package = packages[model_provider]
    if find_spec(package) is None:
        package = package.replace("_", "-")
        return f"Provider {model_provider!r} needs a package: pip install {package}"
    return None


def _parts(
    runnable: Runnable[LanguageModelInput, AIMessage],
    messages: LanguageModelInput,
    stop: list[str] | None,
) -> Generator[AIMessage]:
    with closing(runnable.stream(messages, stop=stop)) as parts:  # type: ignore[type-var]
        while True:
            with _langchain():
                part = next(parts, None)
            if part is None:
                return
            yield part


def _lacks(chat_model: BaseChatModel, parameter: str, value: float, native: bool) -> bool:
    """Whether to drop a parameter that the model does not support.

    It is dropped if the value is neutral, or if a native endpoint set it, possibly by default.
    Otherwise raises UnsupportedParameter.
    """
    profile: Mapping[str, Any] = chat_model.profile or {}
    if parameter not in SAMPLING or profile.get("temperature") is not False:
        return False
    if value != 1 and not native:
        raise UnsupportedParameter(parameter, f"This model does not support {parameter}.")
    return True


def _field(chat_model: BaseChatModel, parameter: str, fields: tuple[str, ...]) -> str:
    known = type(chat_model).model_fields
    field = next((name for name in fields if name in known), None)
    if field is None:
        raise UnsupportedParameter(parameter)
    return field


@contextmanager
def _setting_up() -> Iterator[None]:
    """Wraps the creation of a chat model, which fails if a package or a setting is missing."""
    try:
        yield
    except (ImportError, ValueError, TypeError) as error:
        raise ProviderFailed("LangChain cannot initialize this provider.") from error


@contextmanager
def _langchain() -> Iterator[None]:
    """Wraps LangChain's own work, which fails on unusual requests or answers."""
    try:
        yield
    except UnicodeEncodeError:
        raise ProviderRefusedRequest("The request contains invalid Unicode.") from None
    except ValueError as error:
        raise _of_value_error(error) from error
    except (AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ProviderFailed(UNREADABLE) from error


def _of_value_error(error: ValueError) -> WeirError:
    """A plain ValueError is LangChain's message about a request; a subclass, an invalid answer."""
    if type(error) is not ValueError:
        return ProviderFailed(UNREADABLE)
    if str(error).startswith("No generation chunks"):
        return ProviderFailed(CUT)
    return ProviderRefusedRequest(f"The provider does not support this request: {error}"[:1000])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__


def _translate_one(error: BaseException) -> WeirError | None:
    if isinstance(error, RefusedByStatus):
        return translate_status(error.status, error.body, error.retry_after)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        response = getattr(error, "response", None)
        retry_after = retry_after_of(getattr(response, "headers", {}))
        return translate_status(status, getattr(error, "body", None), retry_after)
    return _of_kind(error)


def _not_reached(error: BaseException) -> bool:
    """Whether the connection failed; both underlying HTTP clients use these class names."""
    return type(error).__name__ in {"ConnectError", "ConnectTimeout"}


def _of_kind(error: BaseException) -> WeirError | None:
    """Translate the exception classes of LangChain, the HTTP clients and Python."""
    import httpx
    import httpx2
    from langchain_core import exceptions as kinds

    status_of_kind = {
        kinds.ModelAuthenticationError: 401,
        kinds.ModelPermissionDeniedError: 403,
        kinds.ModelRateLimitError: 429,
        kinds.ModelInvalidRequestError: 400,
        kinds.ContextOverflowError: 413,
        kinds.ModelTimeoutError: 504,
        kinds.ModelAPIError: 500,
    }
    if isinstance(error, kinds.ModelNotFoundError):
        return ModelNotFound(str(error)[:1000])
    for kind, status in status_of_kind.items():
        if isinstance(error, kind):
            return translate_status(status, str(error), None)
    if isinstance(error, httpx.TimeoutException | httpx2.TimeoutException | TimeoutError):
        return ProviderTimedOut("The provider timed out.")
    broken = (kinds.ModelConnectionError, httpx.HTTPError, httpx2.HTTPError, *BROKEN)
    if isinstance(error, broken):
        return ProviderFailed("The provider is unreachable, or the connection broke.")
    if isinstance(error, kinds.ModelError):
        return ProviderFailed("The provider failed.")
    return None
