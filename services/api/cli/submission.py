"""Prepare a spec file for submission: apply `--set`, upload data files, resolve the model."""

import json
import tomllib
from collections.abc import Callable
from glob import glob, has_magic
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from services.api.cli.failure import CommandError
from services.api.client import ApiClient
from services.common.data.records import merge_shards
from services.common.environments.names import is_environment_name
from services.common.hub_names import is_hub_name
from services.common.job_spec import list_file_places, parse_spec, read_spec_file
from services.common.model_source import resolve_model

_UPLOADED_PREFIX: Final = "file_"
_REGISTERED_PREFIX: Final = "model_"
Spec = dict[str, Any]


def read_spec(path: Path, assignments: list[str]) -> Spec:
    """Read a spec file, apply the assignments and validate it.

    Raises PlatformError with every problem, CommandError for an invalid assignment.
    """
    spec = read_spec_file(path)
    for assignment in assignments:
        assign(spec, assignment)
    parse_spec(spec)
    return spec


def upload_files(spec: Spec, api: ApiClient, base: Path, tell: Callable[[str], None]) -> Spec:
    """Upload every local file of the spec once, and resolve or download the model.

    Relative paths are resolved in `base`, the directory of the spec, then in the working directory.
    """
    spec = json.loads(json.dumps(spec))
    uploaded: dict[str, str] = {}
    for parent, key in list_file_places(spec):
        name = parent[key]
        if name.startswith(_UPLOADED_PREFIX) or is_environment_name(name):
            continue
        if is_hub_name(name):
            tell(f"the platform downloads {name}, unless it did before")
            continue
        if name not in uploaded:
            path = _find_path(name, base)
            if path is None:
                raise CommandError(
                    f"The file {name} is neither in the directory of the spec nor in {Path.cwd()}."
                )
            uploaded[name] = _upload_file(path, api, tell)
        parent[key] = uploaded[name]
    return {**spec, **_model_on_disk(spec, base)}


def _upload_file(path: Path, api: ApiClient, tell: Callable[[str], None]) -> str:
    """Send a file, or the shards that a directory or a glob stands for as one; return its id."""
    if path.is_file():
        tell(f"uploading {path}")
        return api.upload(path).id
    with TemporaryDirectory() as directory:
        merged = Path(directory) / "merged.jsonl.gz"
        tell(f"uploading {merge_shards(path, merged)} rows of {path}")
        return api.upload(merged).id


def _model_on_disk(spec: Spec, base: Path) -> Spec:
    """The keys of the spec that name the model, with a directory in place of a name on the Hugging
    Face hub.

    Downloads with a progress bar, with the token in HF_TOKEN; raises PlatformError when the hub
    cannot be reached.
    """
    name, revision = spec["model"], spec.get("model_revision")
    if name.startswith(_REGISTERED_PREFIX):
        return {}
    directory = _find_path(name, base)
    if directory is not None:
        return {"model": str(directory)}
    source = name if revision is None else f"{name}@{revision}"
    metadata = {**spec.get("metadata", {}), "model_source": source}
    return {
        "model": str(resolve_model(name, revision)),
        "model_revision": None,
        "metadata": metadata,
    }


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Return key and value of `key.key=value`; raises CommandError if it is none."""
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise CommandError(f"{assignment!r} is not an assignment; use key=value, e.g. rl.steps=20")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text  # a string may be given without quotes, which a shell removes


def assign(spec: Spec, assignment: str) -> None:
    """Apply an assignment `key.key=value`; raises CommandError if it is invalid."""
    key, value = parse_assignment(assignment)
    *parents, last = key.split(".")
    place: Any = spec
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise CommandError(
                f"--set {assignment!r}: {parent!r} is {place!r} in the spec, not a table."
            )
    place[last] = value


def _find_path(name: str, base: Path) -> Path | None:
    candidates = (base / name, Path(name))
    return next(
        (
            found.absolute() if has_magic(str(found)) else found.resolve()
            for found in candidates
            if found.exists() or (has_magic(str(found)) and glob(str(found), recursive=True))
        ),
        None,
    )
