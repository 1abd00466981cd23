"""Files and models over HTTP."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow
import pytest
from pyarrow import parquet

from tests.support.control_plane import (
    job_body,
    make_settings,
    migrated_database,
    openai_client,
    running_api,
    write_model,
    write_rows,
)
from tests.support.servers import Postgres

MAX_BYTES = 200_000


@pytest.fixture
def http(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """An API that takes files of 200 kB."""
    with migrated_database(postgres_server) as url:
        settings = make_settings(url, redis_url, tmp_path / "data", max_upload_bytes=MAX_BYTES)
        with running_api(settings) as (client, _):
            yield client


def upload(http: httpx.Client, content: bytes, name: str = "rows.jsonl") -> httpx.Response:
    return http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})


def test_an_uploaded_file_comes_back_as_it_was(http: httpx.Client, tmp_path: Path) -> None:
    content = write_rows(tmp_path / "rows.jsonl", 3).read_bytes()

    answer = upload(http, content)

    file = answer.json()
    assert answer.status_code == 201
    assert (file["object"], file["filename"], file["bytes"], file["rows"]) == (
        "file",
        "rows.jsonl",
        len(content),
        3,
    )
    assert http.get(f"/v1/files/{file['id']}").json() == file
    assert http.get(f"/v1/files/{file['id']}/content").content == content
    assert http.get("/v1/files").json()["data"] == [file]


def test_malformed_rows_are_named_by_number_and_the_file_is_not_kept(
    http: httpx.Client, tmp_path: Path
) -> None:
    answer = upload(http, b'{"prompt": "a", "answer": "b"}\n{"prompt": "a", \nnot json\n')

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "dataset_invalid")
    assert [problem["path"] for problem in error["problems"]] == ["row 2", "row 3"]
    assert "truncated JSON" in error["problems"][0]["message"]
    assert http.get("/v1/files").json()["data"] == []
    assert list((tmp_path / "data" / "files").iterdir()) == []


def test_a_parquet_file_is_taken_and_comes_back_as_it_was(
    http: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(
        pyarrow.Table.from_pylist(
            [{"prompt": "1+1?", "answer": "2"}, {"prompt": "2+2?", "answer": "4"}]
        ),
        path,
    )

    file = upload(http, path.read_bytes(), path.name).json()
    content = http.get(f"/v1/files/{file['id']}/content")
    job = {**job_body(tmp_path, method="rl", training_file=file["id"]), "validation_file": None}

    assert (file["filename"], file["rows"]) == ("rows.parquet", 2)
    assert (content.content, content.headers["content-type"]) == (
        path.read_bytes(),
        "application/vnd.apache.parquet",
    )
    assert http.post("/v1/jobs", json=job).status_code == 201


def test_an_empty_file_is_refused(http: httpx.Client) -> None:
    assert upload(http, b"").json()["error"]["code"] == "dataset_invalid"


def test_a_file_that_is_too_large_is_refused_while_it_arrives(
    http: httpx.Client, tmp_path: Path
) -> None:
    answer = upload(http, b'{"prompt": "a", "answer": "b"}\n' * (2 * MAX_BYTES // 31))

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert not list((tmp_path / "data").glob("files/*"))


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(errno.ENOSPC, 507, "disk_full"), (errno.EROFS, 503, "storage_unavailable")],
)
def test_a_volume_that_takes_no_upload_is_no_defect_and_keeps_nothing_of_it(
    http: httpx.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
    code: str,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("services.api.adapters.uploads._copy_and_hash", fail)

    answer = upload(http, b'{"prompt": "a", "answer": "b"}\n')

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert os.strerror(number) in answer.json()["error"]["message"]
    assert list((tmp_path / "data").glob("files/*")) == []


def test_a_json_body_that_is_too_large_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", json={"suffix": "x" * 5_000_000})

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    "name", ["../../escape.jsonl", "..", "a/b\\c.jsonl", "\u202edn\u0000.jsonl"]
)
def test_no_file_name_leads_out_of_the_files_directory(
    http: httpx.Client, tmp_path: Path, name: str
) -> None:
    file = upload(http, write_rows(tmp_path / "rows.jsonl").read_bytes(), name).json()

    directory = tmp_path / "data" / "files" / file["id"]
    [stored] = [
        path for path in directory.iterdir() if not path.name.startswith(".reference_answers.")
    ]
    assert stored.is_file()
    assert http.get(f"/v1/files/{file['id']}/content").status_code == 200


@pytest.mark.parametrize("name", ["reference_answers.jsonl", ".reference_answers.jsonl"])
def test_an_upload_that_is_called_like_the_audit_keeps_its_content(
    http: httpx.Client, tmp_path: Path, name: str
) -> None:
    content = write_rows(tmp_path / "rows.jsonl").read_bytes()
    file = upload(http, content, name).json()

    assert http.get(f"/v1/files/{file['id']}/content").content == content


def test_a_deleted_file_is_not_found(http: httpx.Client, tmp_path: Path) -> None:
    file = upload(http, write_rows(tmp_path / "rows.jsonl").read_bytes()).json()

    assert http.delete(f"/v1/files/{file['id']}").json() == {
        "id": file["id"],
        "object": "file",
        "deleted": True,
    }
    assert http.get(f"/v1/files/{file['id']}").status_code == 404
    assert http.delete(f"/v1/files/{file['id']}").status_code == 404
    assert list((tmp_path / "data" / "files").iterdir()) == []


def test_a_file_that_an_unfinished_job_reads_is_not_deleted(
    http: httpx.Client, tmp_path: Path
) -> None:
    file = upload(http, write_rows(tmp_path / "rows.jsonl").read_bytes()).json()
    body = job_body(tmp_path, training_file=file["id"], validation_file=file["id"])
    job = http.post("/v1/jobs", json=body).json()

    refused = http.delete(f"/v1/files/{file['id']}")
    http.post(f"/v1/jobs/{job['id']}/cancel")

    assert refused.status_code == 409
    assert job["id"] in refused.json()["error"]["message"]
    assert http.delete(f"/v1/files/{file['id']}").status_code == 200


def test_the_openai_package_uploads_lists_and_deletes_files(
    http: httpx.Client, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    client = openai_client(http)

    with path.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    listed = [item.id for item in client.files.list()]
    deleted = client.files.delete(file.id)
    client.close()

    assert listed == [file.id]
    assert deleted.deleted is True


def test_a_registered_model_can_be_named_by_its_id(http: httpx.Client, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")

    model = http.post("/v1/models", json={"path": str(directory), "name": "tiny"}).json()
    again = http.post("/v1/models", json={"path": str(directory)}).json()
    job = http.post("/v1/jobs", json=job_body(tmp_path, model=model["id"]))

    assert model["id"].startswith("model_")
    assert (model["name"], model["card"]["block_size"]) == ("tiny", 4)
    assert again["id"] == model["id"]
    assert job.status_code == 201
    assert [item["id"] for item in http.get("/v1/models").json()["data"]] == [model["id"]]
    assert http.get(f"/v1/models/{model['id']}").json()["path"] == str(directory)


@pytest.mark.parametrize("path", ["relative", "/nowhere/at/all", ""])
def test_only_a_model_directory_is_registered(http: httpx.Client, path: str) -> None:
    assert http.post("/v1/models", json={"path": path}).status_code == 400


def test_rows_that_no_layout_fits_are_kept_for_a_mapping(http: httpx.Client) -> None:
    rows = b'{"q": "1+1?", "a": "2"}\n{"q": "1+2?", "a": "3"}\n'
    file = upload(http, rows).json()
    assert file["rows"] == 2
    assert [problem[:25] for problem in file["layout_problems"]] == [
        "row 1: has no prompt that",
        "row 2: has no prompt that",
    ]
    assert http.get(f"/v1/files/{file['id']}").json() == file
    # A row that cannot be read at all is refused as ever.
    assert upload(http, rows + b"no\n").status_code == 400
