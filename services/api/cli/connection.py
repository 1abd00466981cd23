"""Which API a command speaks to."""

from pathlib import Path

from services.api.cli.failure import CommandError
from services.api.client import ApiClient
from services.api.embedded.locations import running_platform


def connect(api_url: str | None, data_dir: Path) -> ApiClient:
    """The API that was named, else the one of the platform on the data directory; raises
    CommandError.
    """
    if api_url is not None:
        return ApiClient(api_url)
    platform = running_platform(data_dir)
    if platform is None:
        raise CommandError(
            f"No platform runs on {data_dir}. Start one with `dirl up`, or name its API with --api-url.",
            code="unreachable",
        )
    return ApiClient(platform.api_url)
