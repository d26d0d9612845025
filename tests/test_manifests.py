"""The platforms' manifests: they agree, name what Weir knows, and their commands serve."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.servers import REPOSITORY, Weir
from webapp import settings
from webapp.secrets_managers import MODULES

BINARIES = Path(sys.executable).parent
SCHEMAS = Path(__file__).parent / "schemas"
KEY = "a-key-for-the-manifests-test"
# What images and platforms are told beside Weir's own settings.
OF_THE_IMAGE = {"PATH", "PYTHONUNBUFFERED"}
OF_RENDER = {"PYTHON_VERSION"}
OF_RAILWAY = {"RAILPACK_PYTHON_VERSION"}

KNOWN = {declared.metadata["variable"]: declared.metadata for declared in settings.table()}


# -- reading --


def text(name: str) -> str:
    return (REPOSITORY / name).read_text()


def procfile() -> dict[str, str]:
    lines = (line.partition(":") for line in text("Procfile").splitlines())
    return {process: command.strip() for process, _, command in lines}


def render() -> dict[str, Any]:
    blueprint: dict[str, Any] = yaml.safe_load(text("render.yaml"))
    return blueprint


def render_service(kind: str) -> dict[str, Any]:
    (found,) = (service for service in render()["services"] if service["type"] == kind)
    return dict(found)


def render_web() -> dict[str, Any]:
    return render_service("web")


def railway() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(text("railway.json"))
    return manifest


def railway_service(name: str = "weir") -> str:
    """What .railway/railway.ts says of a service."""
    found = re.search(
        rf' = service\("{name}", \{{\n(.*?)\n  \}}\);', text(".railway/railway.ts"), re.DOTALL
    )
    assert found, f".railway/railway.ts has no {name}"
    return found[1]


def railway_program(field: str, service: str = "weir") -> str:
    """The value of a field of a service in .railway/railway.ts that is a literal."""
    found = re.search(rf"\b{field}: (\[?[\"\d].*?),\n", railway_service(service))
    assert found, f".railway/railway.ts has no {field}"
    return found[1]


def railway_environment(service: str = "weir") -> set[str]:
    block = re.search(r"env: \{\n(.*?)\n    \}", railway_service(service), re.DOTALL)
    assert block, ".railway/railway.ts sets no environment"
    return set(re.findall(r"^ +(\w+):", block[1], re.MULTILINE))


def heroku() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(text("app.json"))
    return manifest


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions in order, each with its arguments on one line."""
    lines = re.sub(r"^\s*#.*\n", "", text("deploy/Dockerfile"), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", lines)
    instructions = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(name, arguments.strip()) for name, _, arguments in instructions]


def instruction(name: str) -> str:
    """The arguments of the last instruction of this name: that one counts."""
    return [arguments for found, arguments in dockerfile() if found == name][-1]


def image_environment() -> dict[str, str]:
    pairs = (part.partition("=") for part in shlex.split(instruction("ENV")))
    return {name: value for name, _, value in pairs}


def image_command() -> list[str]:
    command: list[str] = json.loads(instruction("CMD"))
    return command


def image_health_command() -> list[str]:
    command: list[str] = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    return command


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(text("deploy/docker-compose.yml"))["services"]
    return services


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


# -- commands --


def test_every_platform_starts_weir_with_the_same_command() -> None:
    web = procfile()["web"]
    assert render_web()["startCommand"] == web
    assert railway()["deploy"]["startCommand"] == web
    assert json.loads(railway_program("startCommand")) == web
    assert image_command() == shlex.split(web)
    assert "web" in heroku()["formation"], "Heroku must run the Procfile's web process"


def test_every_platform_starts_a_worker_with_the_same_command() -> None:
    worker = procfile()["worker"]
    assert render_service("worker")["startCommand"] == worker
    assert json.loads(railway_program("startCommand", "weir-worker")) == worker
    assert compose()["worker"]["command"] == shlex.split(worker)
    unit = re.search(r"^ExecStart=/opt/weir/current/\.venv/bin/(.+)$",
                     text("deploy/server/weir-worker.service"), re.MULTILINE)  # fmt: skip
    assert unit
    assert unit[1] == worker
    # The serving processes do a worker's part where there is none.
    assert heroku()["formation"]["worker"]["quantity"] == 0


def test_every_platform_migrates_with_the_same_command() -> None:
    release = procfile()["release"]
    assert render_web()["preDeployCommand"] == release
    assert railway()["deploy"]["preDeployCommand"] == [release]
    assert json.loads(railway_program("preDeployCommand")) == [release]


def test_the_commands_are_installed() -> None:
    for command in procfile().values():
        program = shlex.split(command)[0]
        assert (BINARIES / program).exists(), f"{program} is not installed"
    assert (REPOSITORY / "gunicorn.conf.py").exists()


def test_the_platforms_install_the_pinned_requirements() -> None:
    assert render_web()["buildCommand"] == "pip install -r requirements.txt"
    installs = [arguments for name, arguments in dockerfile() if "pip install" in arguments]
    assert len(installs) == 1
    assert " --only-binary=:all: --requirement /tmp/requirements.txt " in installs[0]


def test_the_image_can_have_each_secret_manager_s_sdk() -> None:
    files = {f"requirements-{extra}.txt" for extra in ("aws", "azure", "gcp")}
    assert {requirements for _, requirements in MODULES.values() if requirements} == files
    copied = [shlex.split(arguments) for name, arguments in dockerfile() if name == "COPY"]
    assert files <= set(copied[0])
    assert {f"!{file}" for file in files} <= set(text(".dockerignore").splitlines())
    assert all((REPOSITORY / file).exists() for file in files)


def test_the_image_is_built_without_a_compiler() -> None:
    for name, arguments in dockerfile():
        assert not re.search(r"\b(apt|apt-get|apk|gcc|build-essential)\b", arguments), name


def test_no_platform_kills_before_the_grace_period_is_over() -> None:
    grace = float(KNOWN["SHUTDOWN_GRACE"]["default"])
    for kind in ("web", "worker"):
        assert render_service(kind)["maxShutdownDelaySeconds"] > grace
    assert railway()["deploy"]["drainingSeconds"] > grace
    for service in ("weir", "weir-worker"):
        assert int(railway_program("drainingSeconds", service)) > grace
    for service in ("weir", "worker"):
        assert seconds(compose()[service]["stop_grace_period"]) > grace
    # Heroku kills after 30 s, whatever it is told.
    assert grace < 30


def test_both_files_for_railway_say_the_same() -> None:
    for field, value in railway()["deploy"].items():
        assert json.loads(railway_program(field)) == value, field
    assert json.loads(railway_program("build: { builder").partition(" }")[0]) == "RAILPACK"
    assert railway()["build"] == {"builder": "RAILPACK"}


# -- settings --


def render_environment(kind: str) -> dict[str, dict[str, Any]]:
    return {entry["key"]: entry for entry in render_service(kind)["envVars"]}


def environments() -> Iterator[tuple[str, set[str]]]:
    for kind in ("web", "worker"):
        yield f"render.yaml: {kind}", set(render_environment(kind)) - OF_RENDER
    yield "app.json", set(heroku()["env"])
    yield "deploy/Dockerfile", set(image_environment()) - OF_THE_IMAGE
    yield "deploy/docker-compose.yml", set(compose()["weir"]["environment"])
    for service in ("weir", "weir-worker"):
        yield f".railway/railway.ts: {service}", railway_environment(service) - OF_RAILWAY


def test_every_variable_is_a_setting() -> None:
    for manifest, names in environments():
        assert names, f"{manifest} sets nothing"
        assert names <= set(KNOWN), f"{manifest} names what Weir does not know"


# Where each manifest says how many proxies are in front, and who migrates.
IN_FRONT = {
    "render.yaml": r"key: TRUSTED_PROXIES\n +value: 1$",
    "app.json": r'"TRUSTED_PROXIES": \{[^}]+"value": "1"',
    ".railway/railway.ts": r'TRUSTED_PROXIES: "1"',
    "docs/deploying/railway.md": r"\| `TRUSTED_PROXIES` \| `1` \|",  # railway.json has no variables
    "deploy/docker-compose.yml": r"TRUSTED_PROXIES: \$\{TRUSTED_PROXIES:-0\}",
    "deploy/server/docker-compose.yml": r'TRUSTED_PROXIES: "1"',
    "docs/deploying/server.md": r"^TRUSTED_PROXIES=1$",  # of /etc/weir.env
    "deploy/kubernetes/base/weir.yaml": r"TRUSTED_PROXIES\W+(value: )?\"?1\b",
    "deploy/aws/ecs/service.tf": r'TRUSTED_PROXIES = "1"',
    "deploy/aws/lambda/template.yaml": r'TRUSTED_PROXIES: "1"',
    "deploy/gcp/cloudbuild.yaml": r'_TRUSTED_PROXIES: "1"',
    "deploy/azure/app.bicep": r"name: 'TRUSTED_PROXIES'\n +value: '1'",
}
MIGRATING = {
    "render.yaml": "preDeployCommand: flask db upgrade",
    "Procfile": "release: flask db upgrade",
    "app.json": "Its release process migrates.",
    ".railway/railway.ts": 'preDeployCommand: ["flask db upgrade"]',
    "railway.json": '"preDeployCommand": ["flask db upgrade"]',
    "deploy/docker-compose.yml": "Migrates the database itself when it starts",
    "deploy/kubernetes/base/weir.yaml": "Each Weir migrates the database itself when it starts",
    "deploy/aws/ecs/service.tf": "Each task migrates at its start",
    "deploy/aws/lambda/template.yaml": "Each process migrates the database at its start",
    "deploy/gcp/cloudbuild.yaml": "id: migrate",
    "deploy/azure/app.bicep": "the job that migrates its database",
}


@pytest.mark.parametrize("manifest", IN_FRONT)
def test_every_manifest_says_how_many_proxies_are_in_front(manifest: str) -> None:
    assert re.search(IN_FRONT[manifest], text(manifest), re.MULTILINE)


@pytest.mark.parametrize("manifest", MIGRATING)
def test_every_manifest_says_who_migrates(manifest: str) -> None:
    assert MIGRATING[manifest] in text(manifest)


def test_a_hosted_weir_has_a_secret_a_database_and_redis() -> None:
    hosted = {entry["key"]: entry for entry in render_web()["envVars"]}
    assert hosted["SECRET_KEY"]["generateValue"] is True
    assert hosted["ADMIN_PASSWORD"]["generateValue"] is True
    for name in ("SECRET_KEY", "ADMIN_PASSWORD"):
        assert heroku()["env"][name]["generator"] == "secret"
    assert {addon.partition(":")[0] for addon in heroku()["addons"]} == {
        "heroku-postgresql",
        "heroku-redis",
    }
    names = railway_environment()
    assert {"SECRET_KEY", "ADMIN_PASSWORD", "DATABASE_URL", "REDIS_URL"} <= names


def test_render_wires_what_it_creates() -> None:
    hosted = {entry["key"]: entry for entry in render_web()["envVars"]}
    (cache,) = (service for service in render()["services"] if service["type"] == "keyvalue")
    (database,) = render()["databases"]
    assert hosted["REDIS_URL"]["fromService"] == {
        "type": "keyvalue",
        "name": cache["name"],
        "property": "connectionString",
    }
    assert hosted["DATABASE_URL"]["fromDatabase"] == {
        "name": database["name"],
        "property": "connectionString",
    }
    assert cache["ipAllowList"] == database["ipAllowList"] == []


def test_a_worker_has_the_settings_of_the_serving_process() -> None:
    """A key that only one of them had in API_KEYS would be revoked by the other."""
    # How many proxies are in front matters to requests only.
    for_requests = {"TRUSTED_PROXIES"}
    web, worker = render_environment("web"), render_environment("worker")
    assert set(worker) == set(web) - for_requests
    for name, entry in worker.items():
        asked_or_made = "generateValue" in web[name] or "sync" in web[name]
        of_web = {"type": "web", "name": render_web()["name"], "envVarKey": name}
        assert entry == ({"key": name, "fromService": of_web} if asked_or_made else web[name])
    assert railway_environment("weir-worker") == railway_environment() - for_requests
    for name in re.findall(r"(\w+): preserve\(\)", railway_service()):
        assert f"{name}: weir.env.{name}," in railway_service("weir-worker")
    assert compose()["worker"]["environment"] == compose()["weir"]["environment"]


def test_compose_asks_no_worker_for_the_port_that_it_does_not_have() -> None:
    """The image's health check would call it unhealthy for ever."""
    worker = compose()["worker"]
    assert worker["healthcheck"] == {"disable": True}
    assert "ports" not in worker
    assert worker["image"] == compose()["weir"]["image"]
    assert worker["pull_policy"] == "never", "it is built, by another service"
    assert worker["depends_on"] == {"weir": {"condition": "service_healthy"}}
    for same in ("read_only", "cap_drop", "security_opt", "tmpfs", "volumes"):
        assert worker[same] == compose()["weir"][same]


def test_a_full_redis_drops_cached_answers_before_limits_everywhere() -> None:
    """As `flask doctor` advises. Railway's Redis has no maxmemory."""
    policies = {
        "deploy/docker-compose.yml": r"--maxmemory-policy, ([\w-]+)",
        "render.yaml": r"maxmemoryPolicy: ([\w-]+)",
        "deploy/aws/ecs/stores.tf": r'"maxmemory-policy"\s+value = "([\w-]+)"',
        "deploy/gcp/setup.sh": r"maxmemory-policy=([\w-]+)",
        "deploy/azure/infrastructure.bicep": r"evictionPolicy: '(\w+)'",
        "docs/deploying/heroku.md": r"redis:maxmemory --policy ([\w-]+)",
    }
    for manifest, pattern in policies.items():
        found = re.findall(pattern, text(manifest))
        assert [policy.replace("-", "").lower() for policy in found] == ["volatilelru"], manifest


def test_no_manifest_holds_a_secret() -> None:
    secrets = {name for name, metadata in KNOWN.items() if metadata["secret"]}
    for kind in ("web", "worker"):
        for name, entry in render_environment(kind).items():
            assert name not in secrets or "value" not in entry, name
    for name, entry in heroku()["env"].items():
        assert name not in secrets or "value" not in entry, name
    assert not secrets & set(image_environment())


def test_compose_takes_its_secrets_from_the_environment_and_insists_on_them() -> None:
    services = compose()
    password = r"\$\{POSTGRES_PASSWORD:\?[^}]+\}"
    given = services["weir"]["environment"]
    for name in ("SECRET_KEY", "ADMIN_PASSWORD"):
        assert re.fullmatch(rf"\$\{{{name}:\?[^}}]+\}}", given[name])
    assert re.search(f":{password}@", given["DATABASE_URL"])
    assert re.fullmatch(password, services["postgres"]["environment"]["POSTGRES_PASSWORD"])
    assert given["OPENAI_API_KEY"] is None
    assert given["API_KEYS"] is None


def test_compose_starts_weir_once_its_stores_are_healthy() -> None:
    services = compose()
    waits = services["weir"]["depends_on"]
    assert set(waits) == {"postgres", "valkey"}
    for name, condition in waits.items():
        assert condition == {"condition": "service_healthy"}
        assert services[name]["healthcheck"]["test"]


# -- versions, names --


def test_every_manifest_means_the_same_python() -> None:
    version = text("runtime.txt").strip().removeprefix("python-")
    assert re.fullmatch(r"3\.\d+", version)
    (render_s,) = (
        entry["value"] for entry in render_web()["envVars"] if entry["key"] == "PYTHON_VERSION"
    )
    assert re.fullmatch(rf"{re.escape(version)}\.\d+", render_s), "Render wants a full version"
    assert json.loads(railway_program("RAILPACK_PYTHON_VERSION")) == version
    images = {arguments.split()[0] for name, arguments in dockerfile() if name == "FROM"}
    assert images == {f"python:{render_s}-slim-trixie"}


def images() -> Iterator[tuple[str, str]]:
    """What the files pull; those of the chart and of Cloud Build have tests of their own."""
    for file in sorted((REPOSITORY / "deploy").rglob("docker-compose.yml")):
        name = str(file.relative_to(REPOSITORY))
        for service in yaml.safe_load(file.read_text())["services"].values():
            if service.get("image", "weir") != "weir":
                yield name, service["image"]
    for file in sorted((REPOSITORY / "deploy").rglob("Dockerfile")):
        name = str(file.relative_to(REPOSITORY))
        for image in re.findall(r"(?:^FROM |--from=)(\S+)", file.read_text(), re.MULTILINE):
            if image not in {"build", "${WEIR}"}:
                yield name, image


def test_every_image_has_a_full_version() -> None:
    found = list(images())
    assert len(found) == 8
    for file, image in found:
        # PostgreSQL's versions have two numbers.
        numbers = r"\d+\.\d+" if image.startswith("postgres:") else r"\d+\.\d+\.\d+"
        tag = rf":v?{numbers}(-[\w.-]+)?(@sha256:[0-9a-f]{{64}})?"
        assert re.fullmatch(rf"[\w./-]+{tag}", image), f"{file}: {image}"


def test_what_railway_no_longer_reads_is_not_the_documented_way() -> None:
    """From 2026-12-01 on it reads .railway/railway.ts only."""
    page = text("docs/deploying/railway.md")
    assert page.index("railway config apply") < page.index("**With `railway.json`**")


def test_nothing_ties_who_develops_to_one_python() -> None:
    assert not (REPOSITORY / ".python-version").exists(), "pyenv fails where it is not installed"


def test_one_placeholder_stands_for_the_repository_everywhere() -> None:
    repository = heroku()["repository"]
    owner_and_name = repository.removeprefix("https://github.com/")
    assert heroku()["website"] == repository
    assert f'github("{owner_and_name}")' in text(".railway/railway.ts")
    pages = ["README.md", "docs/deploying/render.md", "docs/deploying/heroku.md"]
    buttons = [re.findall(r"(?:repo|template)=(https://[^)]+)\)", text(page)) for page in pages]
    assert buttons == [[repository, repository], [repository], [repository]]


# -- formats --


@pytest.mark.parametrize(
    ("name", "manifest"),
    [("render", render), ("railway", railway), ("app", heroku)],
    ids=["render.yaml", "railway.json", "app.json"],
)
def test_a_manifest_has_its_platforms_format(name: str, manifest: Any) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(manifest())


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    check("hadolint", "--no-color", "deploy/Dockerfile")


def test_the_compose_file_has_the_format_of_compose() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    check("check-jsonschema", *schema, "deploy/docker-compose.yml")


def check(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [BINARIES / program, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- the image --


def test_the_image_runs_without_root_and_keeps_its_data_in_a_volume() -> None:
    names = [name for name, _ in dockerfile()]
    assert names.count("FROM") == 2
    user, _, group = instruction("USER").partition(":")
    assert re.fullmatch(r"[1-9]\d*", user), "a numeric user that is not root"
    assert group == user
    assert any(f"--gid {group} weir" in arguments for _, arguments in dockerfile())
    assert any(f"--uid {user} --gid weir" in arguments for _, arguments in dockerfile())
    assert image_environment()["APP_ENV"] == "production"
    assert instruction("VOLUME") == image_environment()["DATA_DIR"]
    assert instruction("EXPOSE") == KNOWN["PORT"]["default"]
    assert compose()["weir"]["read_only"] is True
    assert compose()["weir"]["tmpfs"] == ["/tmp"]
    assert compose()["weir"]["volumes"] == [f"weir-data:{image_environment()['DATA_DIR']}"]
    assert any("--owner weir" in arguments for name, arguments in dockerfile() if name == "RUN")


def image_files(folder: Path) -> Path:
    """What `COPY . .` brings into the image: .dockerignore lists what is let through."""
    patterns = [line for line in text(".dockerignore").splitlines() if not line.startswith("#")]
    assert patterns[0] == "*", "all that is not named stays outside"
    for name in (pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")):
        source, target = REPOSITORY / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif source.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    return folder


# -- serving --


class Deployed(Weir):
    """Weir as a platform runs it: a manifest's command on the PATH, in a folder with its files."""

    def __init__(self, command: list[str], folder: Path, env: Mapping[str, str]) -> None:
        of_the_platform = {
            "PATH": f"{BINARIES}:/usr/bin:/bin",
            "APP_ENV": "production",
            "SECRET_KEY": "a-secret-for-the-manifests-test",
            "ADMIN_PASSWORD": "a-password-for-the-manifests",
            "API_KEYS": f"Manifests:premium:{KEY}",
        }
        super().__init__(of_the_platform | env)
        self.command = command
        self.cwd = folder

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run another command as and where the server runs."""
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, **self._process_options()
        )

    def _command(self) -> list[str]:
        return self.command

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": self.cwd, "env": self.env}


@pytest.fixture
def from_procfile() -> Iterator[Deployed]:
    """Not yet started."""
    weir = Deployed(shlex.split(procfile()["web"]), REPOSITORY, {})
    yield weir
    weir.close()


@pytest.fixture
def from_image(tmp_path: Path) -> Iterator[Deployed]:
    """Not yet started; the files, the environment and the command are the image's."""
    environment = {
        name: value
        for name, value in image_environment().items()
        if name not in {"PATH", "DATA_DIR"}
    }
    weir = Deployed(image_command(), image_files(tmp_path), environment)
    yield weir
    weir.close()


def test_the_procfile_migrates_serves_and_ends_well(from_procfile: Deployed) -> None:
    released = from_procfile.run(shlex.split(procfile()["release"]))
    assert released.returncode == 0, released.stderr
    assert "Migrated to" in released.stdout

    from_procfile.start()

    assert from_procfile.get(render_web()["healthCheckPath"]).status_code == 200
    assert from_procfile.get(railway()["deploy"]["healthcheckPath"]).status_code == 200
    assert from_procfile.get(heroku()["success_url"]).status_code == 200
    answer = from_procfile.post("/chat", key=KEY, json={"message": "Hello"})
    assert answer.status_code == 200, answer.text
    assert from_procfile.terminate() == 0


def test_the_release_step_may_run_again(from_procfile: Deployed) -> None:
    release = shlex.split(procfile()["release"])
    assert from_procfile.run(release).returncode == 0
    again = from_procfile.run(release)
    assert again.returncode == 0, again.stderr
    assert "Already at" in again.stdout


def test_the_files_of_the_image_are_enough_to_serve(from_image: Deployed) -> None:
    from_image.start()

    answer = from_image.post("/chat", key=KEY, json={"message": "Hello"})
    assert answer.status_code == 200, answer.text
    created = from_image.run(["flask", "keys", "create", "First", "--tier", "premium"])
    assert created.returncode == 0, created.stderr
    assert from_image.post("/chat", key=created.stdout.strip(), json={"message": "Hello"}).ok
    assert from_image.terminate() == 0


def test_the_health_check_of_the_image_sees_whether_weir_lives(from_image: Deployed) -> None:
    assert from_image.run(image_health_command()).returncode != 0
    from_image.start()
    alive = from_image.run(image_health_command())
    assert alive.returncode == 0, alive.stderr


def test_a_platform_without_a_secret_and_a_database_is_told_all_at_once(tmp_path: Path) -> None:
    bare = {"PATH": f"{BINARIES}:/usr/bin:/bin", "HOME": str(tmp_path), "RENDER": "true"}
    for command in procfile().values():
        refused = subprocess.run(
            shlex.split(command),
            cwd=REPOSITORY,
            env=bare,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert refused.returncode != 0
        assert "SECRET_KEY" in refused.stderr
        assert "ADMIN_PASSWORD" in refused.stderr
        assert "DATABASE_URL" in refused.stderr
        assert "Traceback" not in refused.stderr
