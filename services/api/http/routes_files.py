"""/v1/files"""

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel
from sqlalchemy import select

from services.api.db.job_tables import Job
from services.api.db.record_tables import StoredFile
from services.api.http.auth import Who
from services.api.http.envelope import Page, page_of
from services.api.http.gold_audit import audit_file
from services.api.http.paging import newest_first, owned_by
from services.api.http.resources import After, Limit, Res
from services.api.http.uploads import delete_upload, keep_upload
from services.api.http.views import FileView, file_view
from services.common.data.parquet import is_parquet
from services.common.errors import PlatformError

router = APIRouter(prefix="/v1/files", tags=["files"])


class DeletedFile(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool


@router.post("", status_code=201)
def upload_file(
    resources: Res,
    caller: Who,
    file: UploadFile,
    purpose: Annotated[
        Literal["fine-tune", "eval"], Form(description="As OpenAI asks for; kept, not interpreted.")
    ] = ("fine-tune"),
) -> FileView:
    """Upload JSON lines or Parquet. Every row is checked; a file with faulty rows is refused with
    their numbers.

    Gold answers are typed, and verified against themselves when the reward service is up.
    """
    resources.require_quota(caller.project, file.size or 0)
    row = keep_upload(
        file.file, file.filename or "data.jsonl", purpose, resources.data_dir / "files"
    )
    row.project = caller.project
    audit_file(resources.fleet, Path(row.path))
    with resources.database.begin() as session:
        session.add(row)
    return file_view(row)


@router.get("")
def list_files(
    resources: Res, caller: Who, after: After = None, limit: Limit = 20, purpose: str | None = None
) -> Page[FileView]:
    """Files, newest first."""
    statement = owned_by(StoredFile, caller)
    if purpose is not None:
        statement = statement.where(StoredFile.purpose == purpose)
    with resources.database.begin() as session:
        rows = newest_first(session, StoredFile, statement, after, limit)
    return page_of([(row.id, file_view(row)) for row in rows], limit)


@router.get("/{file_id}")
def get_file(resources: Res, file_id: str) -> FileView:
    """One file."""
    return file_view(_file(resources, file_id))


@router.get("/{file_id}/content", response_class=FileResponse)
def get_file_content(resources: Res, file_id: str) -> FileResponse:
    """The file as it was uploaded."""
    row = _file(resources, file_id)
    kind = "application/vnd.apache.parquet" if is_parquet(Path(row.path)) else "application/jsonl"
    return FileResponse(row.path, filename=row.filename, media_type=kind)


@router.delete("/{file_id}")
def delete_file(resources: Res, file_id: str) -> DeletedFile:
    """Delete a file that no unfinished job needs."""
    with resources.database.begin() as session:
        row = session.get(StoredFile, file_id, with_for_update=True)
        if row is None:
            raise _not_found(file_id)
        users = [
            job.id
            for job in session.scalars(select(Job).where(Job.finished_at.is_(None)))
            if file_id in job.files
        ]
        if users:
            raise PlatformError(
                "conflict",
                f"File {file_id} cannot be deleted: {', '.join(users)} still reads it.",
                hint="Wait for the job's end, or cancel it.",
            )
        session.delete(row)
    delete_upload(Path(row.path))
    return DeletedFile(id=file_id, deleted=True)


def _file(resources: Res, file_id: str) -> StoredFile:
    with resources.database.begin() as session:
        row = session.get(StoredFile, file_id)
    if row is None:
        raise _not_found(file_id)
    return row


def _not_found(file_id: str) -> PlatformError:
    return PlatformError(
        "not_found", f"There is no file {file_id!r}.", hint="GET /v1/files lists all."
    )
