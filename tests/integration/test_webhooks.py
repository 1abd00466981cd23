"""Webhooks: told once about what they asked for, signed as OpenAI's client verifies it, retried
until taken.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import select, update

from services.api.db.clock import utc_now
from services.api.db.jobs import lock_job, transition
from services.api.db.webhook_tables import Delivery
from services.api.domain.job_state import JobState
from services.api.domain.webhooks import wait_before_retry_s
from services.api.http.resources import Resources
from services.api.scheduler import webhooks
from services.api.scheduler.context import SchedulerContext
from services.api.scheduler.prune import prune
from services.api.scheduler.webhooks import deliver, open_deliveries
from tests.support.control_plane import (
    job_body,
    make_settings,
    migrated_database,
    running_api,
    scheduler_context,
)
from tests.support.servers import Postgres


class Receiver:
    """A listener that answers what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.drips = False
        """Sends a byte of its headers now and then, for longer than anyone waits."""
        self.got: list[tuple[dict[str, str], str]] = []
        """Headers and body of every request."""

    @property
    def ids(self) -> list[str]:
        """Of the messages, in order."""
        return [headers["webhook-id"] for headers, _ in self.got]


@contextmanager
def listening(receiver: Receiver) -> Iterator[str]:
    """Its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            receiver.got.append(
                ({name.lower(): value for name, value in self.headers.items()}, body)
            )
            if receiver.drips:
                with suppress(OSError):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
                    for _ in range(100):
                        self.wfile.write(b"x")
                        time.sleep(0.1)
            self.send_response(receiver.status)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class World:
    """An API, a scheduler, a receiver."""

    def __init__(
        self, http: httpx.Client, resources: Resources, context: SchedulerContext, directory: Path
    ) -> None:
        self.http, self.resources, self.context, self.directory = (
            http,
            resources,
            context,
            directory,
        )
        self.receiver, self.url = Receiver(), ""

    def hook(self, **values: Any) -> dict[str, Any]:
        """A new webhook."""
        answer = self.http.post("/v1/webhooks", json={"url": self.url, **values})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def job(self, *states: JobState) -> str:
        """A job that went through these states."""
        job_id = str(self.http.post("/v1/jobs", json=job_body(self.directory)).json()["id"])
        with self.resources.database.begin() as session:
            for state in states:
                transition(session, lock_job(session, job_id), state)
        return job_id

    def send(self) -> None:
        """Everything that is due, as beat and workers do."""
        for delivery_id in open_deliveries(self.context):
            deliver(self.context, delivery_id)

    def make_due(self) -> None:
        """Let the waiting time pass."""
        with self.resources.database.begin() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.due_at.is_not(None))
                .values(due_at=utc_now() - timedelta(seconds=1))
            )

    def deliveries(self, webhook: dict[str, Any]) -> list[dict[str, Any]]:
        """As the API lists them."""
        return list(self.http.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"])


@pytest.fixture
def world(postgres_server: Postgres, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """Everything but the services that jobs need."""
    with migrated_database(postgres_server) as url:
        settings = make_settings(url, redis_url, tmp_path / "data")
        with running_api(settings) as (http, resources), scheduler_context(settings) as context:
            made = World(http, resources, context, tmp_path)
            with listening(made.receiver) as made.url:
                yield made


RUN = (JobState.PROVISIONING, JobState.RUNNING)


def test_a_finished_job_is_told_once_signed_as_openais_client_verifies(world: World) -> None:
    webhook = world.hook(events=["job.succeeded"])
    job_id = world.job(*RUN, JobState.PAUSING, JobState.RUNNING, JobState.SUCCEEDED)

    world.send()
    world.send()

    [(headers, body)] = world.receiver.got
    verifier = openai.OpenAI(api_key="x", webhook_secret=webhook["secret"]).webhooks
    verifier.verify_signature(body, headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        verifier.verify_signature(body.replace("succeeded", "failed"), headers)
    message = json.loads(body)
    assert (message["type"], message["data"]["id"], message["data"]["state"]) == (
        "job.succeeded",
        job_id,
        "succeeded",
    )
    assert message["id"] == headers["webhook-id"]
    [delivery] = world.deliveries(webhook)
    assert (delivery["tries"], delivery["next_try_at"], delivery["last_error"]) == (1, None, None)
    assert delivery["delivered_at"] is not None


def test_every_end_and_every_pause_is_told_to_who_asked_and_to_the_own_project_only(
    world: World,
) -> None:
    everything, other = world.hook(), world.hook(project="other")
    world.job(*RUN, JobState.PAUSING, JobState.PAUSED)
    world.job(*RUN, JobState.FAILED)
    world.job(JobState.CANCELLING, JobState.CANCELLED)
    world.send()

    assert {json.loads(body)["type"] for _, body in world.receiver.got} == {
        "job.paused",
        "job.failed",
        "job.cancelled",
    }
    assert (len(world.deliveries(everything)), world.deliveries(other)) == (3, [])


@pytest.mark.parametrize("status", [500, 302], ids=["error", "redirect"])
def test_a_message_that_is_not_accepted_is_retried_later_under_its_id(
    world: World, status: int
) -> None:
    webhook = world.hook()
    world.receiver.status = status
    world.job(JobState.CANCELLING, JobState.CANCELLED)
    world.send()
    world.send()  # not due yet
    [failed] = world.deliveries(webhook)
    world.receiver.status = 204
    world.make_due()
    world.send()

    assert (failed["tries"], failed["delivered_at"], str(status) in failed["last_error"]) == (
        1,
        None,
        True,
    )
    assert failed["next_try_at"] > failed["created_at"]
    assert len(world.receiver.ids) == 2
    assert len(set(world.receiver.ids)) == 1
    assert world.deliveries(webhook)[0]["delivered_at"] is not None


def test_an_address_where_no_server_listens_is_given_up_after_the_last_try_and_pruned(
    world: World,
) -> None:
    webhook = world.hook(url="http://127.0.0.1:9/")
    world.job(JobState.CANCELLING, JobState.CANCELLED)
    tries = 1 + next(tries for tries in range(1, 100) if wait_before_retry_s(tries + 1) is None)
    for _ in range(tries + 2):
        world.send()
        world.make_due()

    [delivery] = world.deliveries(webhook)
    assert (delivery["tries"], delivery["next_try_at"]) == (tries, None)
    assert "ConnectError" in delivery["last_error"]
    with world.resources.database.begin() as session:
        session.execute(update(Delivery).values(created_at=utc_now() - timedelta(days=8)))
    prune(world.context)
    assert world.deliveries(webhook) == []


def test_a_sender_that_died_is_followed_by_another_and_two_at_once_send_once(world: World) -> None:
    world.hook()
    world.job(JobState.CANCELLING, JobState.CANCELLED)
    [delivery_id] = open_deliveries(world.context)
    threads = [
        threading.Thread(target=deliver, args=(world.context, delivery_id)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(world.receiver.got) == 1
    with (
        world.resources.database.begin() as session
    ):  # as if the sender had died before it noted the answer
        row = session.scalars(select(Delivery)).one()
        row.delivered_at, row.due_at = None, utc_now() - timedelta(seconds=1)
    world.send()
    assert world.receiver.ids[0] == world.receiver.ids[1]


def test_a_deleted_webhook_is_told_nothing_and_its_secret_was_shown_once(world: World) -> None:
    webhook = world.hook()
    world.job(JobState.CANCELLING, JobState.CANCELLED)
    listed = world.http.get("/v1/webhooks").json()["data"]
    gone = world.http.delete(f"/v1/webhooks/{webhook['id']}").json()
    world.send()

    assert "secret" not in listed[0]
    assert (gone["deleted"], world.receiver.got) == (True, [])
    assert world.http.get(f"/v1/webhooks/{webhook['id']}/deliveries").status_code == 404


@pytest.mark.parametrize("url", ["ftp://host/", "http://user:secret@host/", "no url"])
def test_an_address_that_cannot_be_used_is_refused(world: World, url: str) -> None:
    answer = world.http.post("/v1/webhooks", json={"url": url})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "url")


def test_a_receiver_that_responds_a_byte_at_a_time_holds_no_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_TIMEOUT_S", 1.0)
    hook = world.hook()
    world.receiver.drips = True
    world.job(JobState.CANCELLING, JobState.CANCELLED)

    began = time.monotonic()
    world.send()

    assert time.monotonic() - began < 4
    (delivery,) = world.http.get(f"/v1/webhooks/{hook['id']}/deliveries").json()["data"]
    assert "TimeoutError" in delivery["last_error"]
