"""What a person who starts Weir in development reads: where it is, how to sign in, a first request.

It is for people, so it goes to stderr; the log on stdout stays JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gevent

from webapp import local_model
from webapp.services import Services
from webapp.setting_parsers import DEMO_KEYS, ConfiguredKey, api_keys
from webapp.version import VERSION

CHECK_INTERVAL = 0.1  # seconds
ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 only compared
INDENT = " " * 14
QUESTION = '{"message": "What is an API?"}'


def announce(services: Services, *, first_worker: bool) -> None:
    """Print it once the database is ready. Of several workers the first one prints all of it, and
    the one that made the administrator what only it knows."""
    gevent.spawn(_announce, services, first_worker)


def _announce(services: Services, first_worker: bool) -> None:
    while not services.lifecycle.prepared:
        gevent.sleep(CHECK_INTERVAL)
    if first_worker:
        _print(banner(services))
    elif services.first_administrator.password:
        _print(_rows({"Password": _password(services)}))


def banner(services: Services) -> str:
    settings = services.settings
    host = "localhost" if settings.host in ANY_ADDRESS else settings.host
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    rows = {
        "Address": url,
        "Dashboard": f"{url}/dashboard/",
        "User": services.first_administrator.username,
        "Password": _password(services),
        "Answers": _answers(services),
        "Data": services.database.shown,
    }
    return (
        f"\n  Weir {VERSION} is ready.\n{_rows(rows)}"
        f"  A first request:\n\n"
        f"  curl -s {url}/chat -H 'X-API-Key: {_key(settings.api_keys)}' \\\n"
        f"    -H 'Content-Type: application/json' -d '{QUESTION}'\n\n"
    )


def _rows(rows: dict[str, str]) -> str:
    return "\n" + "".join(f"  {name:<12}{value}\n" for name, value in rows.items()) + "\n"


def _password(services: Services) -> str:
    administrator = services.first_administrator
    if administrator.password:
        shown = f"{administrator.password} (shown only now)"
    elif services.settings.admin_password:
        shown = "ADMIN_PASSWORD, as it was at the first start"
    else:
        shown = "set at the first start"
    command = f"{_flask()} accounts set-password {administrator.username}"
    return f"{shown}\n{INDENT}to set another: {command}"


def _flask() -> str:
    """The command as it is called from here: of a virtual environment that is not activated too."""
    program = Path(sys.executable).with_name("flask")
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _answers(services: Services) -> str:
    names = ", ".join(provider.name for provider in services.settings.providers)
    if names:
        return names
    who = local_model.label()
    return (
        f"{f'local: {who}' if who else 'offline: no provider is configured'}\n"
        f"{INDENT}for real answers set OPENAI_API_KEY or OPENAI_BASE_URL, and start again"
    )


def _key(configured: tuple[ConfiguredKey, ...]) -> str:
    """The demo key of the larger tier; keys of the operator's are not shown."""
    demo = api_keys(DEMO_KEYS)
    return demo[-1].secret if demo[-1] in configured else "YOUR-KEY"


def _print(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
