"""`/`: the dashboard when it is built, else a page that says how to build it."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

import services.api

DASHBOARD: Final = Path(services.api.__file__).parent / "dashboard" / "dist"
_API_PREFIXES: Final = ("v1/", "healthz", "readyz", "metrics", "openapi.json")
_REFERENCE: Final = "docs"
_NOT_FOUND: Final = 404
_YEAR_S: Final = 31_536_000

_PLAIN_PAGE: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>DiRL Platform</title>
</head>
<body>
<h1>DiRL Platform</h1>
<p>The API is running. Its dashboard is not built: run <code>make dashboard</code> (needs Node) and reload.</p>
<ul>
<li><a href="/openapi.json">OpenAPI document</a>; the dashboard shows it at <code>/docs</code></li>
<li><a href="/v1/jobs">Jobs</a></li>
<li><a href="/v1/system">Services</a></li>
</ul>
</body>
</html>
"""


def dashboard_router(directory: Path) -> APIRouter:
    """Serve the files of `directory`; every other path is a page of the dashboard and gets its
    index.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/{path:path}")
    def dashboard(request: Request, path: str) -> Response:
        if path.startswith(_API_PREFIXES) or f"{path}/" in _API_PREFIXES:
            raise HTTPException(_NOT_FOUND, "there is no such route")
        file = _find_file(directory, "docs.html" if path == _REFERENCE else path)
        if file is not None:
            # The bundler names assets after their content; nothing else may be kept without asking.
            is_asset = path.startswith("assets/")
            caching = f"public, max-age={_YEAR_S}, immutable" if is_asset else "no-cache"
            return FileResponse(file, headers={"cache-control": caching})
        if path.rpartition("/")[2].count("."):
            raise HTTPException(_NOT_FOUND, "there is no such file")
        index = directory / "index.html"
        if not index.is_file():
            return HTMLResponse(_PLAIN_PAGE)
        return FileResponse(index, headers={"cache-control": "no-cache"})

    return router


def _find_file(directory: Path, path: str) -> Path | None:
    try:
        file = (directory / path).resolve()
        return file if file.is_relative_to(directory.resolve()) and file.is_file() else None
    except (OSError, ValueError):  # a name with NUL, or longer than a name may be
        return None
