# ruff: noqa: E501
"""Data sets by name: which files a split is, one download for a commit, and refusals."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.api.adapters.hub_files import find_hub_file
from services.common.data.records import iter_records
from services.common.hub_names import HubName, is_hub_name, parse_hub_name
from tests.support.hub import COMMIT, Hub, run_hub

NAME = "openai/gsm8k"
ROW = b'{"question": "1+1?", "answer": "#### 2"}\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with run_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files[NAME] = {
            "README.md": b"# GSM8K",
            "main/train-00000-of-00002.jsonl": ROW,
            "main/train-00001-of-00002.jsonl": ROW * 2,
            "main/test-00000-of-00001.jsonl": ROW * 3,
            "socratic/train.jsonl": ROW * 4,
        }
        yield hub


def count(directory: Path, name: str) -> int:
    path = find_hub_file(directory, name, may_use_token=False).path
    return sum(isinstance(record.content, dict) for record in iter_records(path))


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("openai/gsm8k:main/train", HubName(NAME, None, "main", "train")),
        ("openai/gsm8k@v1.0:main/train", HubName(NAME, "v1.0", "main", "train")),
        ("openai/gsm8k:main/train@refs/pr/1", HubName(NAME, "refs/pr/1", "main", "train")),
        ("openai/gsm8k:test", HubName(NAME, None, None, "test")),
    ],
)
def test_names_of_the_hub_are_parsed(name: str, parsed: HubName) -> None:
    assert is_hub_name(name)
    assert parse_hub_name(name) == parsed
    assert parse_hub_name(str(parsed)) == parsed


@pytest.mark.parametrize(
    "name",
    ["openai/gsm8k", "/data/train.jsonl", "data/train.jsonl", "file_1", "reasoning-gym:chain_sum?seed=1",
     "gsm8k:train", "../x:train", "a/b:c/d/e"],
)  # fmt: skip
def test_other_names_are_not_of_the_hub(name: str) -> None:
    assert not is_hub_name(name)


def test_a_split_is_downloaded_once_with_its_commit(hub: Hub, tmp_path: Path) -> None:
    file = find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=False)
    assert str(file.name) == f"openai/gsm8k@{COMMIT}:main/train"
    assert count(tmp_path, "openai/gsm8k:main/train") == 3
    downloads = [path for path in hub.requests if "/resolve/" in path]
    assert {path.rpartition("/")[2] for path in downloads} == {
        "train-00000-of-00002.jsonl",
        "train-00001-of-00002.jsonl",
    }

    hub.requests.clear()
    again = find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=False)
    assert again == file
    assert not [path for path in hub.requests if "/resolve/" in path]

    # A commit that was downloaded needs no hub.
    hub.requests.clear()
    assert find_hub_file(tmp_path, str(file.name), may_use_token=False) == file
    assert not hub.requests


def test_a_download_that_was_killed_is_removed_by_a_later_one(hub: Hub, tmp_path: Path) -> None:
    old, new = (tmp_path / "a--b" / COMMIT / f".partial-{name}" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "train.jsonl").touch()
    os.utime(old, (0, 0))

    find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=False)

    assert (old.exists(), new.exists()) == (False, True)


def test_a_new_commit_of_a_branch_is_another_download(hub: Hub, tmp_path: Path) -> None:
    first = find_hub_file(tmp_path, "openai/gsm8k:main/test", may_use_token=False)
    hub.commits |= {"main": "b" * 40, "b" * 40: "b" * 40}
    hub.files[NAME]["main/test-00000-of-00001.jsonl"] = ROW * 9
    assert count(tmp_path, "openai/gsm8k:main/test") == 9
    assert count(tmp_path, str(first.name)) == 3


@pytest.mark.parametrize(
    ("configs", "files", "name", "rows"),
    [
        ([], {"main/train.jsonl": ROW, "socratic/train.jsonl": ROW * 2}, "socratic/train", 2),
        ([], {"data/train-00000-of-00001.jsonl": ROW, "data/test.jsonl": ROW * 2}, "test", 2),
        ([], {"data/train_sft-0.jsonl": ROW, "data/test_sft-0.jsonl": ROW * 2}, "test_sft", 2),
        ([], {"valid.jsonl": ROW, "train.jsonl": ROW * 2}, "validation", 1),
        ([], {"questions.jsonl": ROW * 5}, "train", 5),
        ([], {"train/a.json": b"[{}]", "train/b.json": b"[{}, {}]", "test/a.json": b"[]"}, "train", 3),
        (
            [{"config_name": "default", "data_files": [{"split": "train", "path": "d/part-*"}, {"split": "test", "path": ["x.jsonl"]}]}],
            {"d/part-1.jsonl": ROW, "d/part-2.jsonl": ROW, "x.jsonl": ROW * 7}, "train", 2,
        ),
        (
            [{"config_name": "all", "data_files": [{"split": "test", "path": "x.jsonl"}]}],
            {"x.jsonl": ROW * 7, "y.jsonl": ROW}, "test", 7,
        ),
        ([{"config_name": "c", "data_files": "y.jsonl"}], {"x.jsonl": ROW * 7, "y.jsonl": ROW}, "c/train", 1),
        ([{"config_name": "c", "data_dir": "sub"}], {"sub/test.jsonl": ROW * 2, "test.jsonl": ROW}, "c/test", 2),
    ],
)  # fmt: skip
def test_the_files_of_a_split_are_found_by_the_card_or_by_names(
    hub: Hub, tmp_path: Path, configs: list[dict[str, object]], files: dict[str, bytes], name: str, rows: int
) -> None:  # fmt: skip
    hub.files["a/b"], hub.configs["a/b"] = files, configs
    assert count(tmp_path, f"a/b:{name}") == rows


def test_what_cannot_be_downloaded_is_refused_with_the_reason(hub: Hub, tmp_path: Path) -> None:
    def refusal(name: str) -> str:
        with pytest.raises(ValueError, match=r".+") as caught:
            find_hub_file(tmp_path, name, may_use_token=False)
        return str(caught.value)

    assert "no such data set, or it is private" in refusal("openai/absent:train")
    assert "has no revision 'v9'" in refusal("openai/gsm8k@v9:main/train")
    assert "it has main/train-00000-of-00002.jsonl" in refusal("openai/gsm8k:main/dev")
    hub.files["a/b"] = {"README.md": b"", "data.py": b""}
    assert "has no file that can be read" in refusal("a/b:train")
    assert not list(tmp_path.rglob(".partial-*"))


def test_without_a_network_only_downloaded_commits_are_used(hub: Hub, tmp_path: Path) -> None:
    hub.fails = True
    with pytest.raises(ValueError, match=r"the hub cannot be reached .*; check the network"):
        find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=False)
    hub.fails = False
    find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=False)
    hub.fails = True
    with pytest.raises(ValueError, match=f"such as openai/gsm8k@{COMMIT}:main/train"):
        find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=False)
    assert count(tmp_path, f"openai/gsm8k@{COMMIT}:main/train") == 3


def test_the_token_is_for_those_who_may_use_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.private.add(NAME)
    with pytest.raises(ValueError, match="it is private"):
        find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=False)
    file = find_hub_file(tmp_path, "openai/gsm8k:main/train", may_use_token=True)
    # Nor does the copy give others what the hub does not.
    with pytest.raises(ValueError, match="it is private"):
        find_hub_file(tmp_path, str(file.name), may_use_token=False)
