"""Exports: started, watched, registered."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from services.api.db.clock import utc_now
from services.api.db.record_tables import Checkpoint, Export, RegisteredModel
from services.api.scheduler.context import SchedulerContext
from services.api.scheduler.exports import advance_export, open_exports
from tests.support.control_plane import (
    NOWHERE,
    ScriptedTrainer,
    make_settings,
    migrated_database,
    scheduler_context,
    serving,
    submit,
    write_model,
)
from tests.support.servers import Postgres


@pytest.fixture
def database_url(postgres_server: Postgres) -> Iterator[str]:
    """A migrated database."""
    with migrated_database(postgres_server) as url:
        yield url


@pytest.fixture
def trainer() -> ScriptedTrainer:
    """Writes exports when the test does."""
    return ScriptedTrainer()


@pytest.fixture
def context(
    trainer: ScriptedTrainer, database_url: str, redis_url: str, tmp_path: Path
) -> Iterator[SchedulerContext]:
    """A scheduler with one trainer that is up and one that is not."""
    with serving(trainer) as address:
        settings = make_settings(
            database_url, redis_url, tmp_path, trainer_addresses=(NOWHERE, address)
        )
        with scheduler_context(settings) as context:
            yield context


def queue_export(context: SchedulerContext, directory: Path) -> str:
    job_id = submit(context.database, directory)
    checkpoint = directory / "step-000004"
    checkpoint.mkdir()
    with context.database.begin() as session:
        session.add(
            Checkpoint(
                id="ckpt_1",
                job_id=job_id,
                attempt=1,
                step=4,
                stage="rl",
                path=str(checkpoint),
                weight_version=4,
                weight_digest="d",
                num_bytes=1,
            )
        )
        session.flush()
        session.add(
            Export(
                id="export_1",
                checkpoint_id="ckpt_1",
                model_id="model_1",
                output_path=str(directory / "out"),
                starts=0,
            )
        )
    return "export_1"


def read_export(context: SchedulerContext) -> Export:
    with context.database.begin() as session:
        return session.scalars(select(Export)).one()


def test_an_exported_checkpoint_becomes_a_registered_model(
    context: SchedulerContext, trainer: ScriptedTrainer, tmp_path: Path
) -> None:
    export_id = queue_export(context, tmp_path)

    advance_export(context, export_id)
    advance_export(context, export_id)
    while_written = read_export(context).state
    write_model(Path(trainer.exports[export_id]))
    advance_export(context, export_id)

    assert while_written == "running"
    assert read_export(context).state == "succeeded"
    assert open_exports(context) == []
    with context.database.begin() as session:
        model = session.scalars(select(RegisteredModel)).one()
    assert (model.id, model.checkpoint_id, model.card["block_size"]) == ("model_1", "ckpt_1", 4)


def test_a_trainer_that_forgot_the_export_is_asked_again_but_not_for_ever(
    context: SchedulerContext, trainer: ScriptedTrainer, tmp_path: Path
) -> None:
    export_id = queue_export(context, tmp_path)

    for _ in range(20):
        advance_export(context, export_id)
        trainer.exports.clear()

    export = read_export(context)
    assert (export.state, export.error_code, export.starts) == ("failed", "worker_lost", 3)


def test_an_export_that_is_not_a_model_fails(
    context: SchedulerContext, trainer: ScriptedTrainer, tmp_path: Path
) -> None:
    export_id = queue_export(context, tmp_path)
    advance_export(context, export_id)
    Path(trainer.exports[export_id]).mkdir()

    advance_export(context, export_id)

    assert (read_export(context).state, read_export(context).error_code) == (
        "failed",
        "model_invalid",
    )


def test_an_export_of_a_checkpoint_that_was_removed_fails(
    context: SchedulerContext, tmp_path: Path
) -> None:
    export_id = queue_export(context, tmp_path)
    (tmp_path / "step-000004").rmdir()

    advance_export(context, export_id)

    assert (read_export(context).state, read_export(context).error_code) == (
        "failed",
        "checkpoint_invalid",
    )


def test_an_export_waits_for_a_trainer_within_reason(
    context: SchedulerContext, tmp_path: Path
) -> None:
    export_id = queue_export(context, tmp_path)
    context.fleet.trainers = (NOWHERE,)

    advance_export(context, export_id)
    waiting = read_export(context).state
    with context.database.begin() as session:
        session.execute(update(Export).values(created_at=utc_now() - timedelta(hours=2)))
    advance_export(context, export_id)

    assert waiting == "queued"
    assert (read_export(context).state, read_export(context).error_code) == (
        "failed",
        "trainer_unavailable",
    )
