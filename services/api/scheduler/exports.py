"""Has a trainer write a checkpoint as a model directory, and registers the model when it is there.

Repeatable: StartExport is idempotent per export. A trainer that was restarted knows nothing of the
export; it is asked again, a bounded number of times.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Final

from sqlalchemy import select

from services.api.adapters.fleet import UNREACHABLE_CODES
from services.api.db.clock import utc_now
from services.api.db.job_tables import Job
from services.api.db.locks import claim, open_locked
from services.api.db.record_tables import Checkpoint, Export, RegisteredModel
from services.api.scheduler.context import SchedulerContext
from services.common.checkpoint.pins import pin
from services.common.errors import PlatformError
from services.common.model_card import ModelCard, read_model_card
from services.common.pb.dirl.v1 import trainer_pb2
from services.common.telemetry.logs import get_logger

_CLAIM_S: Final = 30.0
_MAX_STARTS: Final = 3
_DEADLINE_S: Final = 3600.0
_OPEN: Final = ("queued", "running")

log = get_logger()


def open_exports(context: SchedulerContext) -> list[str]:
    """Ids of exports that are not over."""
    with context.database.begin() as session:
        return list(
            session.scalars(
                select(Export.id).where(Export.state.in_(_OPEN)).order_by(Export.created_at)
            )
        )


def advance_export(context: SchedulerContext, export_id: str) -> None:
    """Start the export, or look how it is going."""
    with context.database.begin() as session:
        token = claim(session, Export, export_id, _CLAIM_S)
        if token is None:
            return
        export = session.get_one(Export, export_id)
        checkpoint = session.get_one(Checkpoint, export.checkpoint_id)
    if export.state not in _OPEN:
        _release(context, export, token)
        return

    try:
        address, response = _request_export(context, export, checkpoint)
        card = read_model_card(export.output_path) if response.state == "succeeded" else None
    except PlatformError as error:
        _handle_error(context, export, token, error)
        return

    if card is not None:
        _register(context, export, token, checkpoint, card)
    elif response.state == "failed":
        _store_failure(
            context,
            export,
            token,
            PlatformError(
                response.error_code or "internal",
                response.error_message or "the trainer gave no reason",
            ),
        )
    else:
        _store_progress(context, export, token, address, restart=response.state == "unknown")


def _request_export(
    context: SchedulerContext, export: Export, checkpoint: Checkpoint
) -> tuple[str, trainer_pb2.GetExportResponse]:
    """Where the export is, and how it goes there; raises PlatformError."""
    fleet = context.fleet
    if export.state == "running" and export.trainer_address is not None:
        return export.trainer_address, fleet.export_status(export.trainer_address, export.id)
    statuses = fleet.ask_all(fleet.trainer_status, fleet.trainers)
    up = [address for address, status in statuses.items() if not isinstance(status, PlatformError)]
    if not up:
        raise PlatformError(
            "trainer_unavailable", "No trainer answers; an export is written by one."
        )
    # The same trainer where possible: it knows the export and does not write it a second time.
    address = export.trainer_address if export.trainer_address in up else up[0]
    # Before the trainer is asked: retention may remove the checkpoint until it is read.
    pin(Path(checkpoint.path), export.id, _DEADLINE_S)
    return address, fleet.start_export(address, export.id, checkpoint.path, export.output_path)


def _handle_error(
    context: SchedulerContext, export: Export, token: str, error: PlatformError
) -> None:
    """Retry while a service does not answer, up to the deadline."""
    waited_s = (utc_now() - export.created_at).total_seconds()
    if error.code in UNREACHABLE_CODES | {"busy"} and waited_s < _DEADLINE_S:
        log.warning("export waits", export_id=export.id, reason=error.message)
        _release(context, export, token)
    else:
        _store_failure(context, export, token, error)


def _store_progress(
    context: SchedulerContext, export: Export, token: str, address: str, *, restart: bool
) -> None:
    if restart and export.starts >= _MAX_STARTS:
        message = (
            f"Trainer {address} lost the export {export.starts} times: its process is restarted"
            " repeatedly. Check its log."
        )
        _store_failure(context, export, token, PlatformError("worker_lost", message))
        return
    with context.database.begin() as session:
        row = open_locked(session, Export, export.id, token)
        # Only starts count towards the limit, not looks at an export that makes progress.
        row.starts += row.state == "queued"
        row.state = "queued" if restart else "running"
        row.trainer_address = address


def _register(
    context: SchedulerContext, export: Export, token: str, checkpoint: Checkpoint, card: ModelCard
) -> None:
    files = (path for path in Path(export.output_path).rglob("*") if path.is_file())
    num_bytes = sum(path.stat().st_size for path in files)
    with context.database.begin() as session:
        row = open_locked(session, Export, export.id, token)
        row.state, row.finished_at = "succeeded", utc_now()
        session.add(
            RegisteredModel(
                id=export.model_id,
                project=session.get_one(Job, checkpoint.job_id).project,
                name=f"{checkpoint.job_id} step {checkpoint.step}",
                path=export.output_path,
                card=asdict(card),
                num_bytes=num_bytes,
                checkpoint_id=checkpoint.id,
            )
        )
    log.info(
        "model exported", export_id=export.id, model_id=export.model_id, checkpoint_id=checkpoint.id
    )


def _store_failure(
    context: SchedulerContext, export: Export, token: str, error: PlatformError
) -> None:
    with context.database.begin() as session:
        row = open_locked(session, Export, export.id, token)
        row.state, row.finished_at = "failed", utc_now()
        row.error_code, row.error_message = error.code, error.message
    log.error("export failed", export_id=export.id, code=error.code, reason=error.message)


def _release(context: SchedulerContext, export: Export, token: str) -> None:
    with context.database.begin() as session:
        open_locked(session, Export, export.id, token)
