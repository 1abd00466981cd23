"""Uploading data files."""

from pathlib import Path
from typing import IO

from services.api.adapters.uploads import keep_upload, read_layout_problems
from services.api.db.record_tables import StoredFile
from services.api.domain.access import Caller
from services.api.domain.storable import storable
from services.api.schemas.files import FileView
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.reference_audit import audit_file, read_summary


def upload_file(
    plane: ControlPlane, caller: Caller, source: IO[bytes], filename: str, purpose: str, size: int
) -> StoredFile:
    """Keep a file whose every row was checked, its reference answers audited; raises PlatformError.

    The content is in place before its row: an upload that is cut off in between is pruned.
    """
    plane.require_quota(caller.project, size)
    kept = keep_upload(source, filename, plane.data_dir / "files")
    audit_file(plane.fleet, kept.path)
    row = StoredFile(
        id=kept.file_id,
        project=caller.project,
        filename=storable(filename),
        purpose=purpose,
        num_bytes=kept.num_bytes,
        num_rows=kept.num_rows,
        sha256=kept.sha256,
        path=str(kept.path),
    )
    with plane.database.begin() as session:
        session.add(row)
    return row


def to_file_view(row: StoredFile) -> FileView:
    """A file with what its check found, which is kept beside its content."""
    view, path = FileView.model_validate(row), Path(row.path)
    kept = {
        "reference_answers": read_summary(path),
        "layout_problems": read_layout_problems(path),
    }
    return view.model_copy(update=kept)
