"""From a spec file to what the API takes."""

from pathlib import Path
from typing import Any

import pytest

from services.api.cli.failure import CommandError
from services.api.cli.submission import read_spec, upload_files
from services.api.schemas.files import FileView
from services.common.data.records import iter_records
from services.common.errors import PlatformError, ProblemsError
from tests.support.views import make_file_view

SPEC = 'model = "model_1"\nmethod = "rl"\ntraining_file = "train.jsonl"\n[rl]\nsteps = 5\n'


class RecordingApi:
    """Takes uploads and remembers them."""

    def __init__(self) -> None:
        self.uploads: list[Path] = []

    def upload(self, path: Path) -> FileView:
        self.uploads.append(path)
        return make_file_view(f"file_{len(self.uploads)}")


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def _upload(spec: dict[str, Any], base: Path, api: RecordingApi) -> dict[str, Any]:
    return upload_files(spec, api, base, lambda _line: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("rl.steps=20", 20),
        ("optim.lr=1e-4", 1e-4),
        ("rl.dynamic_sampling=false", False),
        ("suffix=first try", "first try"),
        ("suffix='12'", "12"),
        ("model=/models/a=b", "/models/a=b"),
    ],
)
def test_an_assignment_sets_a_typed_value(
    spec_file: Path, assignment: str, expected: object
) -> None:
    value: Any = read_spec(spec_file, [assignment])
    for key in assignment.split("=")[0].split("."):
        value = value[key]

    assert value == expected
    assert type(value) is type(expected)


def test_an_assignment_to_an_unknown_key_is_refused_with_its_path(spec_file: Path) -> None:
    with pytest.raises(ProblemsError, match=r"rl\.step: unknown key"):
        read_spec(spec_file, ["rl.step=20"])


@pytest.mark.parametrize("assignment", ["rl.steps", "=3", "model.x=1"])
def test_what_is_no_assignment_is_refused(spec_file: Path, assignment: str) -> None:
    with pytest.raises(CommandError, match=r"is not an assignment|not a table"):
        read_spec(spec_file, [assignment])


def test_a_file_beside_the_spec_is_uploaded_once_for_all_its_uses(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    api = RecordingApi()
    spec = {
        "model": "model_1",
        "training_file": "train.jsonl",
        "rl": {"training_file": "train.jsonl"},
    }

    sent = _upload(spec, tmp_path, api)

    assert api.uploads == [tmp_path / "train.jsonl"]
    assert sent["training_file"] == sent["rl"]["training_file"] == "file_1"
    assert spec["training_file"] == "train.jsonl"


def test_an_uploaded_file_is_left_alone(tmp_path: Path) -> None:
    api = RecordingApi()

    sent = _upload({"model": "model_1", "training_file": "file_7"}, tmp_path, api)

    assert sent["training_file"] == "file_7"
    assert api.uploads == []


def test_a_file_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"absent\.jsonl"):
        _upload({"model": "m", "training_file": "absent.jsonl"}, tmp_path, RecordingApi())


def test_a_model_directory_becomes_absolute(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()

    assert _upload({"model": "model"}, tmp_path, RecordingApi())["model"] == str(tmp_path / "model")


def test_a_model_that_is_neither_here_nor_on_a_reachable_hub_is_refused_by_name(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = {**read_spec(spec_file, []), "model": "JetLM/SDAR-1.7B-Chat", "model_revision": "main"}
    (spec_file.parent / "train.jsonl").write_text("{}\n")

    with pytest.raises(
        PlatformError, match=r"'JetLM/SDAR-1.7B-Chat' at revision 'main'.*Hugging Face hub"
    ):
        _upload(spec, spec_file.parent, RecordingApi())


def test_a_registered_model_is_left_as_it_is(spec_file: Path) -> None:
    (spec_file.parent / "train.jsonl").write_text("{}\n")

    assert _upload(read_spec(spec_file, []), spec_file.parent, RecordingApi())["model"] == "model_1"


@pytest.mark.parametrize("name", ["data", "data/*.jsonl"])
def test_shards_are_uploaded_as_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        (tmp_path / "data" / f"{number}.jsonl").write_text(f'{{"prompt": "{number}"}}\n')
    sent: list[Any] = []

    class ReadingApi(RecordingApi):
        def upload(self, path: Path) -> FileView:
            sent.extend(record.content for record in iter_records(path))
            return super().upload(path)

    api = ReadingApi()
    spec = _upload({"model": "model_1", "training_file": name}, tmp_path, api)

    assert spec["training_file"] == "file_1"
    assert sent == [{"prompt": str(number)} for number in range(3)]
    assert not api.uploads[0].exists()


def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"prompt": "1"}\n')
    (tmp_path / "data" / "b.jsonl").write_text('{"prompt": "1"}\n\n{"prompt"\n')
    api = RecordingApi()
    with pytest.raises(ProblemsError, match=r"b\.jsonl row 3: is truncated JSON"):
        _upload({"model": "model_1", "training_file": "data"}, tmp_path, api)
    assert not api.uploads
