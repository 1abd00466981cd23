"""Run the reward service: `python -m services.reward`."""

from services.common.pb.dirl.v1 import reward_pb2_grpc
from services.common.rpc.server import run_server
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging
from services.common.telemetry.metrics import new_registry, serving_metrics
from services.common.telemetry.tracing import configure_tracing
from services.reward.endpoints import Endpoints
from services.reward.graders import Installation
from services.reward.metrics import RewardMetrics
from services.reward.pool import Pool, PoolConfig
from services.reward.sandbox import shared_sandboxes
from services.reward.server import SERVICE_NAME, RewardService
from services.reward.settings import RewardSettings
from services.reward.verifier import Verifier


def main() -> None:
    """Start the workers before gRPC, because a process that runs gRPC must not fork."""
    settings = read_settings(RewardSettings)
    configure_logging("reward", settings.log_level, settings.log_format)
    pool = Pool(
        PoolConfig(
            workers=settings.reward_workers,
            memory_bytes=settings.reward_worker_memory_mb << 20,
            items_per_worker=settings.reward_items_per_worker,
            queue_size=settings.reward_queue_size,
        ),
        RewardMetrics(new_registry()),
    )
    pool.start()
    sandboxes = shared_sandboxes.open(settings.reward_sandbox, settings.reward_workers)
    configure_tracing("reward", settings.otlp_endpoint)
    service = RewardService(
        Verifier(pool, cache_size=settings.reward_cache_size),
        settings.reward_timeout_s,
        Installation(
            Endpoints(settings.reward_endpoints), frozenset(settings.reward_python_packages)
        ),
    )

    def shut_down() -> None:
        pool.drain(settings.reward_drain_s)
        pool.close()
        sandboxes.close()

    with serving_metrics(settings.metrics_listen, pool.metrics.registry):
        run_server(
            "reward",
            settings.reward_listen,
            lambda server: reward_pb2_grpc.add_RewardServiceServicer_to_server(service, server),
            [SERVICE_NAME],
            shut_down,
        )


if __name__ == "__main__":
    main()
