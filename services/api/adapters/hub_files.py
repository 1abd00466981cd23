"""Data sets of the Hugging Face hub, downloaded once into the data directory.

A split of a revision has a directory of its own: `hub/OWNER--NAME/COMMIT/CONFIG--SPLIT`.
"""

import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any, Final

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import DatasetInfo
from tqdm import tqdm

from services.common.data.records import SHARD_SUFFIXES
from services.common.hub_names import DEFAULT_CONFIG, HubName, parse_hub_name
from services.common.telemetry.logs import get_logger

_TIMEOUT_S: Final = 20.0
_PROGRESS_S: Final = 5.0
_COMMIT_CHARS: Final = 40
_FREE_BYTES: Final = 2**30
_PARTIAL: Final = ".partial-"
_ABANDONED_S: Final = 86_400.0
_ORIGIN: Final = ".origin.json"
"""In the directory of a split, written last: what it was downloaded from."""
_SYNONYMS: Final = {"validation": ("validation", "valid", "val", "dev"), "test": ("test", "eval")}
"""Names of splits in names of files, as `datasets` reads them."""

log = get_logger()


@dataclass(frozen=True)
class HubFile:
    """A split on this machine."""

    path: Path
    name: HubName
    """With the commit as its revision."""


def find_hub_file(directory: Path, name: str, *, may_use_token: bool) -> HubFile:
    """Return the directory with the files of a split, downloaded unless it was before.

    With `may_use_token`, the token of this process (HF_TOKEN) opens data sets that are private or gated. A name
    whose revision is a downloaded commit needs no network. Raises ValueError that says why the name
    cannot be used.
    """
    parsed = parse_hub_name(name)
    if parsed.revision is not None and len(parsed.revision) == _COMMIT_CHARS:
        found = _find_downloaded(directory, parsed, may_use_token)
        if found is not None:
            return found
    token = None if may_use_token else False
    info = _ask_hub(directory, parsed, token)
    pinned = replace(parsed, revision=info.sha)
    if (found := _find_downloaded(directory, pinned, may_use_token)) is not None:
        return found
    return _download(directory, pinned, info, token)


def _directory_of(directory: Path, name: HubName) -> Path:
    split = f"{name.config or DEFAULT_CONFIG}--{name.split}"
    return directory / name.repository.replace("/", "--") / str(name.revision) / split


def _find_downloaded(directory: Path, name: HubName, may_use_token: bool) -> HubFile | None:
    path = _directory_of(directory, name)
    if not (path / _ORIGIN).exists():
        return None
    is_open = json.loads((path / _ORIGIN).read_bytes())["is_open"]
    return HubFile(path, name) if is_open or may_use_token else None


def _ask_hub(directory: Path, name: HubName, token: bool | None) -> DatasetInfo:
    try:
        return HfApi(endpoint=_endpoint(), token=token).dataset_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=_TIMEOUT_S
        )
    except GatedRepoError:
        reason = "access to it is gated; accept its terms on the hub, and set HF_TOKEN of the API"
    except RepositoryNotFoundError:
        reason = (
            "the hub has no such data set, or it is private; check the name. A private one needs HF_TOKEN of the API, "
            "and a key with the scope admin"
        )
    except RevisionNotFoundError:
        reason = f"it has no revision {name.revision!r}"
    except HFValidationError as error:
        reason = str(error)
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = (
            f"the hub cannot be reached ({_summarise(error)}); {_hint_offline(directory, name)}"
        )
    raise ValueError(f"{str(name)!r}: {reason}")


def _endpoint() -> str | None:
    """Address of the hub; None for the public one. The library reads the variable at its import only."""
    return os.environ.get("HF_ENDPOINT") or None


def _hint_offline(directory: Path, name: HubName) -> str:
    repository = directory / name.repository.replace("/", "--")
    commits = sorted(path.name for path in repository.glob("*") if len(path.name) == _COMMIT_CHARS)
    if commits:
        return f"name a commit that was downloaded, such as {replace(name, revision=commits[-1])}"
    return "check the network and HF_ENDPOINT, or upload the file"


def _summarise(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _download(directory: Path, name: HubName, info: DatasetInfo, token: bool | None) -> HubFile:
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    files = _select_files(name, list(sizes), _read_configs(info))
    num_bytes = sum(sizes[file] for file in files)
    target = _directory_of(directory, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(directory)
    free = shutil.disk_usage(target.parent).free
    if num_bytes + _FREE_BYTES > free:
        raise ValueError(f"{str(name)!r} has {num_bytes} bytes; {free} are free in {directory}")
    log.info("downloading a data set", name=str(name), files=len(files), bytes=num_bytes)
    # Downloaded next to its place, so that a download that is cut off is not taken for the data set.
    partial = Path(mkdtemp(prefix=_PARTIAL, dir=target.parent))
    try:
        snapshot_download(
            name.repository,
            repo_type="dataset",
            revision=name.revision,
            local_dir=partial,
            allow_patterns=[escape(file) for file in files],
            token=token,
            endpoint=_endpoint(),
            tqdm_class=_LoggedProgress,
        )
        origin = {"name": str(name), "is_open": not (info.private or info.gated)}
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        (partial / _ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
        _put_in_place(partial, target)
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise ValueError(f"{str(name)!r}: the download failed ({_summarise(error)})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("downloaded a data set", name=str(name), bytes=num_bytes)
    return HubFile(target, name)


def _remove_abandoned(directory: Path) -> None:
    """Remove what downloads left whose process was killed."""
    for partial in directory.glob(f"*/*/{_PARTIAL}*"):
        with suppress(FileNotFoundError):  # another download has just ended
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        # Another request downloaded it meanwhile.
        if not (target / _ORIGIN).exists():
            raise


class _LoggedProgress(tqdm):  # type: ignore[misc]  # the library has no types
    """Progress as lines of the log: the API has no terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.update(file=io.StringIO(), mininterval=_PROGRESS_S, disable=False)
        options.pop("name", None)
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Log the progress."""
        log.info("downloading", what=self.desc, done=self.n, total=self.total)


def _read_configs(info: DatasetInfo) -> list[Mapping[str, Any]]:
    """Return the configurations that the data set's card declares."""
    declared = vars(info.card_data).get("configs") if info.card_data is not None else None
    return [config for config in declared or () if isinstance(config, dict)]


def _select_files(
    name: HubName, files: Sequence[str], configs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the files of the split: as the card declares them, else by the names of files and directories.

    Raises ValueError with what there is.
    """
    data = [file for file in files if file.endswith(SHARD_SUFFIXES)]
    if not data:
        raise ValueError(
            f"{str(name)!r} has no file that can be read (*{', *'.join(SHARD_SUFFIXES[:6])} …)"
        )
    wanted = name.config or DEFAULT_CONFIG
    known = [str(config.get("config_name")) for config in configs]
    if name.config is None and wanted not in known and len(known) == 1:
        wanted = known[0]
    config = next((config for config in configs if config.get("config_name") == wanted), None)
    found: list[str] = []
    if config is not None:
        patterns = list(_patterns_of(config, name.split))
        inside = f"{str(config.get('data_dir') or '').strip('/')}/".removeprefix("/")
        found = [file for file in data if any(_matches(file, pattern) for pattern in patterns)]
        if not config.get("data_files"):
            own = [file for file in data if file.startswith(inside)]
            found = _find_by_names(own, replace(name, config=None))
    elif not known:
        found = _find_by_names(data, name)
    if found:
        return found
    raise ValueError(f"{str(name)!r} is not in the data set; it has {_describe(configs, data)}")


def _patterns_of(config: Mapping[str, Any], split: str) -> Iterator[str]:
    """Yield the patterns of a split's files; a declaration without splits is of `train`."""
    prefix = str(config.get("data_dir") or "").strip("/")
    declared = config.get("data_files")
    entries = declared if isinstance(declared, list) else [declared]
    for entry in entries:
        if isinstance(entry, dict):
            paths, of_split = entry.get("path"), entry.get("split")
        else:
            paths, of_split = entry, "train"
        if of_split == split and paths:
            for path in paths if isinstance(paths, list) else [paths]:
                yield f"{prefix}/{path}" if prefix else str(path)


def _matches(file: str, pattern: str) -> bool:
    """Whether a file matches; `**/` stands for any number of directories."""
    return fnmatchcase(file, pattern) or fnmatchcase(file, pattern.replace("**/", ""))


def _find_by_names(files: Sequence[str], name: HubName) -> list[str]:
    """Return the files whose names or directories have the split; without any split in the names, all are of
    `train`.
    """
    if name.config not in (None, DEFAULT_CONFIG):
        files = [file for file in files if name.config in PurePosixPath(file).parts[:-1]]
    words = {file: _words(file) for file in files}
    wanted = _SYNONYMS.get(name.split, (name.split.lower(),))
    found = [file for file in files if words[file] & {*wanted}]
    all_splits = {"train", *(word for synonyms in _SYNONYMS.values() for word in synonyms)}
    if name.split == "train" and not any(words[file] & all_splits for file in files):
        return list(files)
    return found


def _words(file: str) -> set[str]:
    """Return the words of a path: `data/train_sft-00000-of-00001.parquet` has `train_sft`, `train`, `sft`."""
    parts = [part.lower() for part in PurePosixPath(file).parts]
    separated = "".join(char if char.isalnum() else " " for char in file.lower())
    stems = (part.partition(".")[0].partition("-")[0] for part in parts)
    return {*separated.split(), *parts, *stems}


def _describe(configs: Iterable[Mapping[str, Any]], files: Sequence[str]) -> str:
    declared = [
        f"{config.get('config_name')}/{entry['split']}"
        for config in configs
        for entry in config.get("data_files") or ()
        if isinstance(entry, dict) and "split" in entry
    ]
    shown = declared or list(files)
    return ", ".join(shown[:20]) + (" …" if len(shown) > 20 else "")
