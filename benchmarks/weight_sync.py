"""GiB/s of a weight update over gRPC against a plain socket copy of the same bytes; one JSON
object.

Ours is `services.trainer.learner.weight_sync.publish` to one replica in a process of its own, over loopback:
manifest, chunks, and a digest that both sides compute, into new tensors. Copying them into a model
is not included. The reference is one `sendall` per tensor over a TCP socket on loopback into a new
buffer, without any check. The runs alternate; the median counts.
"""

import argparse
import json
import multiprocessing
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from services.common.pb.dirl.v1 import rollout_pb2_grpc
from services.common.rpc.server import RpcServer
from services.rollout.assignment import Assignment, Replica, ReplicaState
from services.rollout.metrics import RolloutMetrics
from services.rollout.server import RolloutServicer
from services.rollout.worker import RolloutWorker, WeightUpdate
from services.trainer.learner.weight_sync import publish

MIB = 2**20
JOB = "job_bench"


class AcceptingWorker(RolloutWorker):
    """Takes every version and loads it nowhere."""

    def __init__(self) -> None:
        self._held = Replica(state=ReplicaState.READY, assignment=_assignment())

    @property
    def replica(self) -> Replica:
        """As assigned."""
        return self._held

    def update_weights(self, update: WeightUpdate, timeout_s: float) -> bool:
        """Remember the version alone."""
        self._held = Replica(
            state=ReplicaState.READY, assignment=_assignment(), weights=update.weights
        )
        return True


def _assignment() -> Assignment:
    return Assignment(
        job_id=JOB, attempt=1, model_path="none", prompts_stream="p", groups_stream="g", reward_address="127.0.0.1:1",
        max_sequence_tokens=1, max_batch_size=1, dtype="float32",
    )  # fmt: skip


def serve_replica(ready: Connection) -> None:
    """A replica's transport until the parent hangs up."""
    worker = AcceptingWorker()
    servicer = RolloutServicer(worker, "bench", RolloutMetrics(worker, "bench"))
    server = RpcServer(
        "127.0.0.1:0",
        lambda s: rollout_pb2_grpc.add_RolloutServiceServicer_to_server(servicer, s),
        [],
    )
    ready.send(server.address)
    ready.poll(None)
    server.stop(lambda: None)


def serve_socket(ready: Connection, sizes: list[int]) -> None:
    """Receives the tensors' bytes once per connection and answers with one byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready.send(listener.getsockname())
        while not ready.poll(0):
            connection, _ = listener.accept()
            with connection:
                for size in sizes:
                    _receive(connection, size)
                connection.sendall(b".")


def _receive(connection: socket.socket, size: int) -> None:
    view = memoryview(bytearray(size))
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return
        view = view[count:]


@contextmanager
def process(target, *arguments) -> Iterator[object]:  # type: ignore[no-untyped-def]
    """A child that says where it listens."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=target, args=(theirs, *arguments), daemon=True
    )
    child.start()
    theirs.close()  # a child that dies is an EOFError here, not a wait
    try:
        yield ours.recv()
    finally:
        child.terminate()
        child.join()


def copy_by_socket(address: tuple[str, int], tensors: dict[str, Tensor]) -> float:
    """Seconds."""
    started = time.perf_counter()
    with socket.create_connection(address) as connection:
        for tensor in tensors.values():
            connection.sendall(tensor.flatten().view(torch.uint8).numpy().data)
        connection.recv(1)
    return time.perf_counter() - started


def publish_once(address: str, version: int, tensors: dict[str, Tensor]) -> float:
    """Seconds; fails when the replica did not take the version."""
    started = time.perf_counter()
    publication = publish([address], JOB, 1, version, tensors)
    for error in publication.failed.values():
        raise error
    return time.perf_counter() - started


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="32 MiB, twice")
    quick = parser.parse_args().quick
    mebibytes, repeats = (32, 2) if quick else (1024, 5)
    count = mebibytes // 16
    tensors = {f"layer.{number:03d}": torch.randn(16 * MIB // 4) for number in range(count)}
    plain_s, ours_s = [], []
    with process(serve_replica) as replica, process(serve_socket, [16 * MIB] * count) as listener:
        for version in range(1, repeats + 1):
            plain_s.append(copy_by_socket(listener, tensors))  # type: ignore[arg-type]
            ours_s.append(publish_once(replica, version, tensors))  # type: ignore[arg-type]
    plain, ours = (mebibytes / 1024 / statistics.median(seconds) for seconds in (plain_s, ours_s))
    print(
        json.dumps(
            {
                "benchmark": "weight_sync",
                "mib": mebibytes,
                "socket_gib_per_s": round(plain, 3),
                "grpc_gib_per_s": round(ours, 3),
                "ratio": round(ours / plain, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
