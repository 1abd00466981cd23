"""docker-compose.yml and the Dockerfile say what the code says: settings, commands, ports, health,
images.
"""

import copy
import importlib.util
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.api.operations import health
from services.api.operations.certificates import installation_hosts
from services.api.settings import ApiSettings
from services.common.settings import CommonSettings
from services.reward.settings import RewardSettings
from services.rollout.settings import RolloutSettings
from services.trainer.service.settings import TrainerSettings

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DOCKERFILE = (ROOT / "services" / "Dockerfile").read_text()
SETTINGS: dict[str, type[CommonSettings]] = {
    "api": ApiSettings,
    "reward": RewardSettings,
    "rollout": RolloutSettings,
    "trainer": TrainerSettings,
}
ONCE = ("certificates", "migrate")
SERVERS = ("postgres", "valkey")
Document = dict[str, Any]


def _example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _compose(variables: dict[str, str]) -> Document:
    """The file with its variables filled in, as Compose does it."""
    text = (ROOT / "docker-compose.yml").read_text()
    filled = re.sub(
        r"(?<!\$)\$\{(\w+)(?::[-?]([^}]*))?\}",
        lambda match: variables.get(match[1], match[2]),
        text,
    )
    return dict(yaml.safe_load(filled))


@pytest.fixture(scope="module")
def compose() -> Document:
    """With secrets of its own."""
    return _compose(
        {name: value.replace("change-me", f"s3cret{name}") for name, value in _example().items()}
    )


def ours(compose: Document) -> Iterator[tuple[str, Document]]:
    """Every service that runs an image of ours, by name."""
    for name, service in compose["services"].items():
        if service["image"].startswith("dirl-platform/"):
            yield name, service


def image_of(service: Document) -> str:
    return str(re.fullmatch(r"dirl-platform/(\w+):.*", service["image"])[1])  # type: ignore[index]


def settings_of(service: Document, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the process reads from its environment."""
    with monkeypatch.context() as patch:
        for name, value in service["environment"].items():
            patch.setenv(name, str(value))
        return SETTINGS[image_of(service)]()


def test_every_variable_is_a_setting_and_the_process_starts_with_them(
    compose: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _name, service in ours(compose):
        fields = SETTINGS[image_of(service)].model_fields
        assert {name.removeprefix("DIRL_").lower() for name in service["environment"]} <= set(
            fields
        )
        settings_of(service, monkeypatch)


def test_nothing_of_ours_starts_with_the_secrets_of_the_example_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = _compose(_example())

    for _name, service in ours(example):
        with pytest.raises(ValueError, match=r"the (value of the )?example"):
            settings_of(service, monkeypatch)
    assert "change-me" in example["services"]["postgres"]["entrypoint"][-1]


def test_every_command_and_every_health_check_runs_a_module(compose: Document) -> None:
    for name, service in ours(compose):
        commands = [service["command"]]
        if name not in ONCE:
            commands.append(service["healthcheck"]["test"][1:])
        for python, flag, module, *_arguments in commands:
            assert (python, flag) == ("python", "-m")
            found = importlib.util.find_spec(module)
            package = found is not None and found.submodule_search_locations is not None
            assert importlib.util.find_spec(f"{module}.__main__") if package else found


def test_health_checks_ask_where_the_process_listens(
    compose: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, service in ours(compose):
        if name in ONCE:
            continue
        module, target = service["healthcheck"]["test"][3:]
        if image_of(service) == "api":
            assert (module, target) == ("services.api.operations.health", name)
            assert target in health.PROCESSES
        else:
            listen = getattr(settings_of(service, monkeypatch), f"{image_of(service)}_listen")
            assert (module, target.rpartition(":")[2]) == (
                "services.common.rpc.health",
                listen.rpartition(":")[2],
            )


def test_services_are_called_by_their_names_where_they_listen(
    compose: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = compose["services"]
    for _name, service in ours(compose):
        if image_of(service) == "api":
            settings = settings_of(service, monkeypatch)
            for address in (
                settings.reward_address,
                *settings.rollout_addresses,
                *settings.trainer_addresses,
            ):
                host, _, port = address.rpartition(":")
                called = settings_of(services[host], monkeypatch)
                assert getattr(called, f"{host}_listen") == f"0.0.0.0:{port}"
            assert set(installation_hosts(settings)) >= {"rollout", "reward", "trainer"}


def test_the_variant_for_a_gpu_takes_the_place_of_the_one_for_a_cpu(compose: Document) -> None:
    for name in ("rollout", "trainer"):
        cpu, gpu = compose["services"][name], compose["services"][f"{name}-gpu"]
        assert (cpu["profiles"], gpu["profiles"]) == (["cpu"], ["gpu"])
        assert gpu["networks"] == {"data": {"aliases": [name]}}
        assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
        same = ("command", "volumes", "healthcheck", "stop_grace_period")
        assert [cpu[key] for key in same] == [gpu[key] for key in same]
        assert cpu["environment"].items() <= gpu["environment"].items()
    assert _example()["COMPOSE_PROFILES"] == "cpu"


def test_every_image_is_of_this_version_and_built_once(compose: Document) -> None:
    built: dict[str, str] = {}
    for _name, service in ours(compose):
        assert re.fullmatch(rf"dirl-platform/\w+:{re.escape(VERSION)}(-gpu)?", service["image"])
        if "build" in service:
            assert service["image"] not in built
            built[service["image"]] = service["build"]["args"]["SERVICE"]
    assert set(built) == {service["image"] for _name, service in ours(compose)}
    assert all(image.split("/")[1].startswith(f"{service}:") for image, service in built.items())


def test_secrets_have_no_default_and_everything_else_has_one() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    without_default = set(re.findall(r"\$\{(\w+):\?", text))
    with_default = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    example = _example()

    assert {name for name, value in example.items() if value == "change-me"} == without_default
    assert set(example) == {*without_default, *with_default, "COMPOSE_PROFILES"}


def policy_faults(compose: Document) -> Iterator[str]:
    """What a service may that it need not, and limits that it lacks."""
    for name, service in compose["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        rules = {
            "no memory limit": "memory" in limits,
            "no limit of processors": "cpus" in limits or name.endswith("-gpu"),
            "not pinned": re.fullmatch(r".+:[\w.-]+", service["image"])
            and not service["image"].endswith(":latest"),
            "privileged": not service.get("privileged"),
            "root": service.get("user", "10001") not in ("root", "0"),
            "no restart policy": "restart" in service,
            "no health check": "healthcheck" in service or name in ONCE,
            "reached from outside": not service.get("ports") or name == "api",
            "beyond the data plane": set(service["networks"]) == {"data"} or name == "api",
        }
        if name not in SERVERS:
            rules |= {
                "writable root": service.get("read_only") is True,
                "capabilities": service.get("cap_drop") == ["ALL"] and not service.get("cap_add"),
                "new privileges": "no-new-privileges:true" in service.get("security_opt", ()),
            }
        yield from (f"{name}: {rule}" for rule, holds in rules.items() if not holds)


def test_no_service_may_more_than_it_must(compose: Document) -> None:
    assert list(policy_faults(compose)) == []
    assert compose["networks"]["data"] == {"internal": True}


BREAKS: dict[str, Callable[[Document], Any]] = {
    "writable root": lambda api: api.pop("read_only"),
    "root": lambda api: api.update(user="0"),
    "capabilities": lambda api: api.update(cap_add=["SYS_ADMIN"]),
    "new privileges": lambda api: api.pop("security_opt"),
    "privileged": lambda api: api.update(privileged=True),
    "no memory limit": lambda api: api["deploy"]["resources"]["limits"].pop("memory"),
    "no limit of processors": lambda api: api["deploy"]["resources"]["limits"].pop("cpus"),
    "not pinned": lambda api: api.update(image="dirl-platform/api:latest"),
    "no restart policy": lambda api: api.pop("restart"),
    "no health check": lambda api: api.pop("healthcheck"),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_the_policy_finds_what_was_broken(compose: Document, rule: str) -> None:
    broken = copy.deepcopy(compose)
    BREAKS[rule](broken["services"]["api"])

    assert list(policy_faults(broken)) == [f"api: {rule}"]


def test_the_policy_finds_a_service_of_the_data_plane_that_can_be_reached(
    compose: Document,
) -> None:
    broken = copy.deepcopy(compose)
    broken["services"]["reward"].update(ports=["50052:50052"], networks=["data", "front"])

    assert list(policy_faults(broken)) == [
        "reward: reached from outside",
        "reward: beyond the data plane",
    ]


@pytest.mark.parametrize("service", SETTINGS)
def test_an_image_by_itself_is_the_service_that_the_file_runs(
    compose: Document, service: str
) -> None:
    stage = re.search(rf"FROM runtime AS {service}\n(.*?)\n\n", DOCKERFILE, re.DOTALL)

    assert stage is not None
    port, probe, command = re.fullmatch(
        r"EXPOSE (\d+)\nHEALTHCHECK --start-period=60s CMD (.*)\nCMD (.*)", stage[1]
    ).groups()  # type: ignore[union-attr]
    described = compose["services"][service]
    assert json.loads(command) == described["command"]
    assert json.loads(probe) == described["healthcheck"]["test"][1:]
    assert described["environment"][f"DIRL_{service.upper()}_LISTEN"] == f"0.0.0.0:{port}"


def test_the_dockerfile_names_the_versions_of_the_project() -> None:
    torch = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    assert torch is not None
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE
    assert f"ARG TORCH_VERSION={torch[1]}\n" in DOCKERFILE
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert (
        re.findall(r"^FROM (\$\{\w+\}) AS (?:dependencies|runtime)$", DOCKERFILE, re.MULTILINE)
        == ["${BASE}"] * 2
    )


def test_the_build_sees_what_the_dockerfile_copies_and_nothing_that_was_built_here() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()[:-1]}

    assert ignore[1] == "*"
    for source in sources:
        assert (ROOT / source).exists()
        assert any(f"!{part}" in ignore for part in (source, *map(str, Path(source).parents)))
    assert {"node_modules", "dist", "src/generated"} <= {
        line.removeprefix("services/api/dashboard/")
        for line in ignore
        if line.startswith("services/api/dashboard/")
    }
