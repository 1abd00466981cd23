"""What client and server agree on beside the messages."""

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
    # A restarted service is found again within a second instead of after gRPC's backoff of up to
    # two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A container that was made anew has another address, which gRPC would look up after half a
    # minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # A name with several addresses, as the reward service has in a cluster: its pods take turns.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)
SERVER_OPTIONS: Final = (
    *_SHARED,
    # Without it a second server would share a taken port and get half of the calls.
    ("grpc.so_reuseport", 0),
    # Clients look up the name again now and then, and so find replicas that were added. Running
    # calls are not cut off.
    ("grpc.max_connection_age_ms", _CONNECTION_MS),
    # Or the server would hang up on our clients for pinging too often.
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
)
