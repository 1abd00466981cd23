"""/v1/files"""

from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import FileResponse

from services.api.db.listing import newest_first, owned_by
from services.api.db.record_tables import StoredFile
from services.api.domain.failure import make_not_found
from services.api.http.auth import Who
from services.api.http.paging import make_page
from services.api.http.resources import After, Limit, Res, Resources
from services.api.http.slots import HoldsHeavySlot
from services.api.schemas.envelope import Page
from services.api.schemas.files import DeletedFile, FileView
from services.api.use_cases import deletion, files
from services.api.use_cases.files import to_file_view
from services.common.data.tables import is_parquet, is_table

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("", status_code=201)
async def upload_file(
    resources: Res,
    caller: Who,
    _slot: HoldsHeavySlot,
    file: UploadFile,
    purpose: Annotated[
        Literal["fine-tune", "eval"], Form(description="As OpenAI asks for; kept, not interpreted.")
    ] = ("fine-tune"),
) -> FileView:
    """Upload JSON lines, a JSON array, CSV, Parquet or Arrow; text may be compressed with gzip or
    Zstandard. Every row is checked; a file with faulty rows is refused with their numbers. Rows that
    no layout fits are kept: a job reads them with `data.fields`.

    Reference answers are typed, and verified against themselves when the reward service is up.
    """
    name = file.filename or "data.jsonl"
    stored = await resources.heavy.run(
        files.upload_file, resources, caller, file.file, name, purpose, file.size or 0
    )
    return to_file_view(stored)


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
    return make_page([(row.id, to_file_view(row)) for row in rows], limit)


@router.get("/{file_id}")
def get_file(resources: Res, file_id: str) -> FileView:
    """One file."""
    return to_file_view(_find_file(resources, file_id))


@router.get("/{file_id}/content", response_class=FileResponse)
def get_file_content(resources: Res, file_id: str) -> FileResponse:
    """The file as it was uploaded."""
    row = _find_file(resources, file_id)
    return FileResponse(row.path, filename=row.filename, media_type=_media_type(Path(row.path)))


def _media_type(path: Path) -> str:
    if is_parquet(path):
        return "application/vnd.apache.parquet"
    if is_table(path):
        return "application/vnd.apache.arrow.file"
    guessed, encoding = guess_type(path.name)
    if encoding is not None:
        return f"application/{encoding}"
    return guessed or "application/jsonl"


@router.delete("/{file_id}")
def delete_file(resources: Res, file_id: str) -> DeletedFile:
    """Delete a file that no unfinished job needs."""
    deletion.delete_file(resources, file_id)
    return DeletedFile(id=file_id)


def _find_file(resources: Resources, file_id: str) -> StoredFile:
    with resources.database.begin() as session:
        row = session.get(StoredFile, file_id)
    if row is None:
        raise make_not_found("file", file_id, "GET /v1/files")
    return row
