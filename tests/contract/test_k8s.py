"""The manifests say what the code says: settings, commands, ports, probes, images; and the checks
can fail.
"""

import copy
import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.check_k8s import OVERLAYS, WORKLOADS, name_of, policy_faults, render, schema_faults
from services.api.http import routes_system
from services.api.settings import ApiSettings
from services.common.settings import CommonSettings
from services.reward.settings import RewardSettings
from services.rollout.settings import RolloutSettings
from services.trainer.service.settings import TrainerSettings, WorkerHostSettings

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SETTINGS: dict[str, type[CommonSettings]] = {
    "services.api": ApiSettings,
    "services.reward": RewardSettings,
    "services.rollout": RolloutSettings,
    "services.trainer.service.worker_host": WorkerHostSettings,
    "services.trainer": TrainerSettings,
}
OURS = "dirl-platform/"
Document = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """An overlay as it would be applied."""
    return render(request.param)


def find(documents: list[Document], kind: str, name: str) -> Document:
    return next(
        d
        for d in documents
        if d["kind"] == kind and re.fullmatch(rf"{name}(-\w{{10}})?", d["metadata"]["name"])
    )


def containers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Every container of the platform's own, with the workload's name."""
    for document in documents:
        if document["kind"] in WORKLOADS:
            container = document["spec"]["template"]["spec"]["containers"][0]
            if container["image"].startswith(OURS):
                yield document["metadata"]["name"], container


def module_of(container: Document) -> str:
    python, flag, module = container["command"][:3]
    assert (python, flag) == ("python", "-m")
    return module


def settings_of(container: Document) -> type[CommonSettings]:
    module = module_of(container)
    return next(settings for prefix, settings in SETTINGS.items() if module.startswith(prefix))


def environment(documents: list[Document], container: Document) -> dict[str, str]:
    """The container's DIRL_ variables; secrets as the example has them."""
    values = dict(find(documents, "ConfigMap", "settings")["data"])
    for entry in container["env"]:
        reference = entry.get("valueFrom", {}).get("secretKeyRef")
        values[entry["name"]] = (
            entry.get("value", "0") if reference is None else _secret(entry["name"])
        )
    return {name: value for name, value in values.items() if name.startswith("DIRL_")}


def _secret(name: str) -> str:
    lines = (ROOT / "k8s/overlays/local/secrets.env.example").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    return values[name].replace("change-me", "s3cret-of-a-test")


def test_three_releases_of_kubernetes_accept_every_object(documents: list[Document]) -> None:
    assert list(schema_faults(documents)) == []


def test_no_pod_may_more_than_it_must(documents: list[Document]) -> None:
    assert list(policy_faults(documents)) == []


def _pod(documents: list[Document]) -> Document:
    return find(documents, "Deployment", "api")["spec"]["template"]["spec"]


def _container(documents: list[Document]) -> Document:
    return _pod(documents)["containers"][0]


BREAKS: dict[str, Callable[[list[Document]], Any]] = {
    "root": lambda d: _pod(d)["securityContext"].update(runAsUser=0),
    "root of one container": lambda d: _container(d)["securityContext"].update(runAsUser=0),
    "no seccomp": lambda d: _pod(d)["securityContext"].pop("seccompProfile"),
    "token": lambda d: _pod(d).pop("automountServiceAccountToken"),
    "node's files": lambda d: _pod(d)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "privileges": lambda d: _container(d)["securityContext"].pop("allowPrivilegeEscalation"),
    "writable root": lambda d: _container(d)["securityContext"].update(
        readOnlyRootFilesystem=False
    ),
    "no limit": lambda d: _container(d)["resources"]["limits"].pop("memory"),
    "no request": lambda d: _container(d)["resources"].pop("requests"),
    "latest": lambda d: _container(d).update(image="dirl-platform/api:latest"),
    "no tag": lambda d: _container(d).update(image="registry:5000/dirl-platform/api"),
    "labels": lambda d: find(d, "Deployment", "api")["metadata"]["labels"].pop(
        "app.kubernetes.io/component"
    ),
    "rights": lambda d: d.append({"kind": "Role", "metadata": {"name": "x"}}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_policy_finds_what_was_broken(documents: list[Document], name: str) -> None:
    broken = copy.deepcopy(documents)
    BREAKS[name](broken)

    assert len(list(policy_faults(broken))) == 1


def test_the_schemas_find_an_unknown_key_and_a_wrong_type(documents: list[Document]) -> None:
    broken = copy.deepcopy(documents)
    _container(broken)["livenesProbe"] = {}
    find(broken, "Service", "api")["spec"]["ports"][0]["port"] = "many"

    found = "\n".join(
        schema_faults([find(broken, kind, "api") for kind in ("Deployment", "Service")])
    )

    assert "livenesProbe" in found
    assert "Service/api: spec.ports.0.port" in found


def test_every_variable_is_a_setting_and_the_process_can_start_with_them(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    every_process = find(documents, "ConfigMap", "settings")["data"].keys()
    known = {name for settings in SETTINGS.values() for name in settings.model_fields}
    for _workload, container in containers(documents):
        settings = settings_of(container)
        values = environment(documents, container)
        own = {name.removeprefix("DIRL_").lower() for name in values.keys() - every_process}
        assert own <= set(settings.model_fields)
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            settings()
    shared = {name.removeprefix("DIRL_").lower() for name in every_process}
    assert shared <= known


def test_every_command_and_every_probe_runs_a_module_of_ours(documents: list[Document]) -> None:
    modules = set()
    for _workload, container in containers(documents):
        modules.add(module_of(container))
        probes = [
            container.get(f"{kind}Probe", {}).get("exec")
            for kind in ("startup", "liveness", "readiness")
        ]
        modules |= {probe["command"][2] for probe in probes if probe}

    assert {
        "services.api",
        "services.reward",
        "services.rollout",
        "services.trainer",
        "services.api.scheduler",
    } <= modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_processes_listen_where_their_ports_and_probes_are(documents: list[Document]) -> None:
    routes = {route.path for route in routes_system.router.routes}
    for workload, container in containers(documents):
        if workload in ("migrate", "beat", "trainer-worker"):
            assert "ports" not in container  # they listen nowhere
            continue
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        values = environment(documents, container)
        listens = {
            int(value.rpartition(":")[2])
            for name, value in values.items()
            if name.endswith("_LISTEN")
        }
        assert set(ports.values()) == listens - ({9090} if workload == "api" else set()), workload
        for kind in ("startup", "liveness", "readiness"):
            probe = container[f"{kind}Probe"]
            if "exec" in probe:
                assert probe["exec"]["command"][3] == f"127.0.0.1:{ports['grpc']}"
            else:
                assert probe["httpGet"]["port"] in ports
                assert probe["httpGet"]["path"] in routes


def test_every_address_is_one_of_a_service_and_a_pod_that_there_is(
    documents: list[Document],
) -> None:
    settings = find(documents, "ConfigMap", "settings")["data"]
    addresses = [
        a
        for name, value in settings.items()
        if name.endswith(("_ADDRESS", "_ADDRESSES"))
        for a in value.split(",")
    ]
    for address in addresses:
        host, _, port = address.partition(":")
        pod, _, service = host.rpartition(".")
        found = find(documents, "Service", service)
        assert str(found["spec"]["ports"][0]["port"]) == port
        if pod:
            replicas = find(documents, "StatefulSet", service)["spec"]["replicas"]
            assert int(pod.rpartition("-")[2]) < replicas
            assert pod.rpartition("-")[0] == service
    assert (
        len({a for a in addresses if a.startswith("rollout-")})
        == find(documents, "StatefulSet", "rollout")["spec"]["replicas"]
    )


def test_services_disruption_budgets_and_network_policies_select_pods_that_there_are(
    documents: list[Document],
) -> None:
    pods = {
        document["metadata"]["name"]: document["spec"]["template"]
        for document in documents
        if document["kind"] in WORKLOADS
    }
    for document in documents:
        if document["kind"] == "Service":
            container = pods[document["spec"]["selector"]["app.kubernetes.io/name"]]["spec"][
                "containers"
            ][0]
            named = {port["name"] for port in container.get("ports", ())}
            assert {port["targetPort"] for port in document["spec"].get("ports", ())} <= named
        if document["kind"] == "PodDisruptionBudget":
            assert document["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in pods
        if document["kind"] == "NetworkPolicy":
            for rule in document["spec"].get("ingress", ()):
                selectors = [
                    peer["podSelector"] for peer in rule.get("from", ()) if "podSelector" in peer
                ]
                peers = [
                    selector["matchLabels"] for selector in selectors if "matchLabels" in selector
                ]
                assert {peer["app.kubernetes.io/name"] for peer in peers} <= pods.keys()


def test_a_pod_has_longer_to_end_than_its_process_takes(documents: list[Document]) -> None:
    for workload, settings in (("trainer", TrainerSettings), ("reward", RewardSettings)):
        kind = "StatefulSet" if workload == "trainer" else "Deployment"
        pod = find(documents, kind, workload)["spec"]["template"]["spec"]
        container = pod["containers"][0]
        values = environment(documents, container)
        field = "trainer_stop_grace_s" if workload == "trainer" else "reward_drain_s"
        drain = float(values.get(f"DIRL_{field}".upper(), settings.model_fields[field].default))
        waits = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] > waits + drain + 5, workload


def test_images_carry_the_version_of_this_release(documents: list[Document]) -> None:
    images = {container["image"].removeprefix(OURS) for _, container in containers(documents)}

    assert {image.partition(":")[0] for image in images} == {"api", "rollout", "reward", "trainer"}
    assert {image.partition(":")[2].removesuffix("-gpu") for image in images} == {VERSION}
    versions = {
        d["metadata"]["labels"]["app.kubernetes.io/version"]
        for d in documents
        if name_of(d) == "Deployment/api"
    }
    assert versions == {VERSION}


def test_compose_runs_the_same_programs_of_the_same_images_at_the_same_ports(
    documents: list[Document],
) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    shared = 0
    for workload, container in containers(documents):
        if workload not in services:
            assert workload == "trainer-worker"  # on several hosts only
            continue
        service, shared = services[workload], shared + 1
        assert container["command"] == service["command"]
        assert container["image"].partition(":")[0] == service["image"].partition(":")[0]
        ours, theirs = environment(documents, container), service["environment"]
        listens = [name for name in theirs if name.endswith("_LISTEN")]
        assert {name: ours[name] for name in listens} == {name: theirs[name] for name in listens}
    assert shared == 8


def test_compose_and_a_local_cluster_have_the_same_servers() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    documents = render("local")
    for name in ("postgres", "valkey"):
        pod = find(documents, "StatefulSet", name)["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == services[name]["image"]


def test_every_image_is_one_that_compose_builds(documents: list[Document]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    built = {service["image"] for service in services if "build" in service}

    assert {container["image"] for _, container in containers(documents)} <= built


def test_the_examples_secrets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / "k8s/overlays/local/secrets.env.example").read_text().splitlines()
    for name, value in (line.split("=", 1) for line in lines if line.startswith("DIRL_")):
        monkeypatch.setenv(name, value)

    with pytest.raises(ValueError, match=r"the (value of the )?example") as raised:
        ApiSettings()
    assert {error["loc"][0] for error in raised.value.errors()} == {
        "database_url",
        "redis_url",
        "rpc_token",
    }  # type: ignore[attr-defined]
