"""DATABASE_URL, as platforms, poolers and ORMs write it, translated into SQLAlchemy's.

Errors never quote the URL: it holds a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote, urlencode

POSTGRESQL = re.compile(r"postgres(ql)?(\+\w+)?://(.*)", re.DOTALL)
SQLITE = re.compile(r"sqlite(\+\w+)?://(.*)", re.DOTALL)
HOST = re.compile(r"(\[[\w:.%]+\]|[^\s:\[\]@/]*)(?::(\d{1,5}))?")
MALFORMED = (
    "must look like postgresql://user:password@host:5432/name; in user and password, characters "
    "such as @ : / ? # % must be percent-encoded (@ as %40)"
)
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Settings of libpq, which makes the connections.
LIBPQ = frozenset(
    """
    application_name channel_binding client_encoding fallback_application_name gssencmode gsslib
    hostaddr krbsrvname load_balance_hosts max_protocol_version min_protocol_version options
    passfile require_auth requirepeer service ssl_max_protocol_version ssl_min_protocol_version
    sslcert sslcertmode sslcrl sslcrldir sslkey sslmode sslnegotiation sslpassword sslrootcert
    sslsni target_session_attrs
    """.split()  # noqa: SIM905 a list would take thirty lines
)
# What other programs have there and Weir needs not. Weir prepares no statements and keeps to one
# transaction, so a pooler needs no setting; its own pool and timeouts are bounded; the rest is for
# the driver of another language.
IGNORED = frozenset(
    """
    pgbouncer supa workaround uselibpqcompat statement_cache_size prepared_statement_cache_size
    statement_cache_mode statement_cache_capacity prepare_threshold preparethreshold
    prepared_statements default_query_exec_mode prefer_simple_protocol binary_parameters
    simple_protocol disable_prepared_binary_result prefer_query_mode preferquerymode
    description_cache_capacity
    connection_limit pool pool_timeout pool_size pool_recycle pool_pre_ping max_overflow
    pool_max_conns pool_min_conns pool_max_conn_lifetime pool_max_conn_idle_time max min max_conns
    max_connections min_connections idle_timeout max_lifetime max_idle_connection_lifetime
    single_use_connections
    connect_timeout connecttimeout logintimeout sockettimeout socket_timeout timeout command_timeout
    statement_timeout lock_timeout idle_in_transaction_session_timeout query_timeout
    reaping_frequency keepalives keepalives_idle keepalives_interval keepalives_count keepalive
    tcpkeepalive tcp_user_timeout
    adapter encoding charset timezone async_fallback rewritebatchedinserts sslfactory variables
    """.split()  # noqa: SIM905
)
IGNORED_BY_SQLITE = frozenset(
    """
    connection_limit pool_timeout socket_timeout timeout busy_timeout check_same_thread cache mode
    journal_mode synchronous foreign_keys charset encoding
    """.split()  # noqa: SIM905
)


def parse(text: str) -> str:
    """The URL for SQLAlchemy. `schema` in it is Weir's own: the search path."""
    text = text.strip()
    if found := POSTGRESQL.fullmatch(text):
        return _postgresql(found[3])
    if found := SQLITE.fullmatch(text):
        return _sqlite(found[2])
    if text:
        raise ValueError("must start with postgresql:// (or postgres://) or sqlite:///")
    return ""


def with_password(url: str, password: str) -> str:
    """A URL that parse() has returned, with another password. Raises ValueError."""
    scheme, _, rest = url.partition("://")
    login, at, place = rest.partition("@")
    user = login.partition(":")[0]
    if not scheme.startswith("postgresql") or not at or not user:
        raise ValueError("needs a DATABASE_URL of PostgreSQL that names the user")
    return f"{scheme}://{user}:{quote(password, safe='')}@{place}"


def _postgresql(rest: str) -> str:
    head, _, query = rest.partition("?")
    credentials, at, place = head.rpartition("@")
    parameters = _parameters(query)
    cut_by_a_password = not at and "/" not in head and "@" in query
    if "@" in credentials or cut_by_a_password:
        raise ValueError(MALFORMED)
    user, _, password = credentials.partition(":")
    user, password = unquote(user) or _pop(parameters, "user"), unquote(password)
    password = password or _pop(parameters, "password")
    hosts, _, database = place.partition("/")
    given = [*_hosts(hosts), *_given_hosts(parameters)]
    database = database or _pop(parameters, "dbname")
    if re.search(r"[\s@]", database):
        raise ValueError(MALFORMED)
    login = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
    # Several hosts, and folders of sockets, only fit into the query.
    simple = len(given) <= 1 and not any(host.startswith("/") for host in given)
    query = urlencode(
        ([] if simple else [("host", host) for host in given]) + _translated(parameters)
    )
    host = given[0] if simple and given else ""
    return f"postgresql+psycopg://{login}{'@' if login else ''}{host}/{database}" + (
        f"?{query}" if query else ""
    )


def _parameters(query: str) -> list[tuple[str, str]]:
    found = parse_qsl(query, keep_blank_values=True)
    # Another name is the rest of a password with a ? in it.
    if not all(re.fullmatch(r"\w[\w.]{0,62}", name) for name, _ in found):
        raise ValueError(MALFORMED)
    return found


def _pop(parameters: list[tuple[str, str]], wanted: str) -> str:
    found = [pair for pair in parameters if pair[0] == wanted]
    for pair in found:
        parameters.remove(pair)
    return found[-1][1] if found else ""


def _hosts(text: str) -> list[str]:
    hosts = []
    for entry in filter(None, text.split(",")):
        found = HOST.fullmatch(entry)
        if not found or int(found[2] or 1) not in range(1, 65536):
            raise ValueError(MALFORMED)
        host = unquote(found[1])
        if re.search(r"[@?#\s]", host) or ("/" in host and host[0] != "/"):
            raise ValueError(MALFORMED)
        hosts.append(host + (f":{found[2]}" if found[2] else ""))
    return hosts


def _given_hosts(parameters: list[tuple[str, str]]) -> list[str]:
    """The hosts and ports of the parameters, as libpq has them: comma-separated."""
    named = [host for name, host in parameters if name == "host" and host]
    hosts = [host for text in named for host in text.split(",")]
    _pop(parameters, "host")
    ports = [*filter(None, _pop(parameters, "port").split(","))]
    if not all(port.isdecimal() for port in ports):
        raise ValueError(MALFORMED)
    if len(ports) == 1:
        ports *= len(hosts)
    return [f"{host}:{port}" for host, port in zip(hosts, ports, strict=False)] or hosts


def _translated(parameters: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parameters that Weir and libpq know."""
    values: dict[str, str] = {}
    unknown = []
    for name, value in parameters:
        if name in TRANSLATED:
            values.update(TRANSLATED[name](value))
        elif name in LIBPQ:
            values[name] = value
        elif name.lower() not in IGNORED:
            unknown.append(name)
    if unknown:
        raise ValueError(f"has parameters that Weir does not know: {', '.join(unknown)}; drop them")
    return list(values.items())


def _ssl(value: str) -> dict[str, str]:
    value = value.lower()
    known = dict.fromkeys(("", "1", "true", "yes", "on", "no-verify"), "require")
    known |= dict.fromkeys(("0", "false", "no", "off"), "disable")
    mode = known.get(value, value)
    if mode not in SSL_MODES:
        raise ValueError(f"must have one of {', '.join(SSL_MODES)} as its sslmode (or ssl=true)")
    return {"sslmode": mode}


def _certificates(value: str) -> dict[str, str]:
    """Prisma's `sslaccept`."""
    if value == "strict":
        return {"sslmode": "verify-full", "sslrootcert": "system"}
    return {}


def _schema(value: str) -> dict[str, str]:
    if not re.fullmatch(r'[\w$", -]+', value):
        raise ValueError("must have the names of schemas as its schema, comma-separated")
    return {"schema": value}


def _options(value: str) -> dict[str, str]:
    """libpq's `options`, without a search path: poolers refuse it as part of a connection."""
    path = re.search(r"(?:^|\s)(?:-c\s*|--)search_path=(\S+)", value)
    if not path:
        return {"options": value}
    rest = (value[: path.start()] + value[path.end() :]).strip()
    return _schema(path[1]) | ({"options": rest} if rest else {})


TRANSLATED: dict[str, Callable[[str], dict[str, str]]] = {
    "ssl": _ssl,
    "sslmode": _ssl,
    "sslaccept": _certificates,
    "schema": _schema,
    "currentSchema": _schema,
    "search_path": _schema,
    "options": _options,
    "ApplicationName": lambda value: {"application_name": value},
}


def _sqlite(rest: str) -> str:
    path, _, query = rest.partition("?")
    if not path.startswith("/") or path == "/":
        raise ValueError(
            "must name a file: sqlite:///relative/path.db or sqlite:////absolute/path.db"
        )
    if path == "/:memory:" or path.startswith("/file:"):
        raise ValueError("must name a file: workers and threads do not share SQLite in memory")
    unknown = [name for name, _ in _parameters(query) if name not in IGNORED_BY_SQLITE]
    if unknown:
        raise ValueError(f"has parameters that Weir does not know: {', '.join(unknown)}; drop them")
    return f"sqlite://{path}"
