"""Connect to the API of a command."""

from pathlib import Path

from services.api.cli.failure import CommandError
from services.api.client import ApiClient
from services.api.embedded.locations import running_platform


def connect(api_url: str | None, data_dir: Path) -> ApiClient:
    """Connect to the given API, or to the platform on the data directory; raises CommandError."""
    if api_url is not None:
        return ApiClient(api_url)
    platform = running_platform(data_dir)
    if platform is None:
        raise CommandError(
            f"No platform is running on {data_dir}. Start one with `dirl up`, or set --api-url.",
            code="unreachable",
        )
    return ApiClient(platform.api_url)
