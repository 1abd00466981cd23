"""Options and metadata keys that client and server share."""

from typing import Final

REQUEST_ID_METADATA: Final = "dirl-request-id"

MAX_MESSAGE_BYTES: Final = 64 * 2**20
_KEEPALIVE_MS = 20_000
_CONNECTION_MS = 300_000

_SHARED: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS // 2),
)
CHANNEL_OPTIONS: Final = (
    *_SHARED,
    # Reconnect to a restarted service within a second; the default backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A recreated container has a new address; by default gRPC resolves a name every 30 seconds.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # Services call each other directly; gRPC would send even loopback calls to https_proxy.
    ("grpc.enable_http_proxy", 0),
    # The name of the reward service resolves to all its pods in a cluster; balance over them.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)
SERVER_OPTIONS: Final = (
    *_SHARED,
    # By default a second server can bind a used port and would get half of the calls.
    ("grpc.so_reuseport", 0),
    # Closing old connections makes clients resolve the name again and find new replicas. Running
    # calls are not interrupted.
    ("grpc.max_connection_age_ms", _CONNECTION_MS),
    # The default minimum is five minutes; the server would close connections with our keepalive.
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
)
