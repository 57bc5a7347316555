"""The server: endpoints, page, and what stands before them, in one FastAPI application."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from dualasr.errors import DualasrError
from dualasr.model import DualWhisper

from .gate import Gate, UploadLimits
from .monitoring import Measured, Monitoring
from .openai_api import models_of, router
from .openai_errors import ApiError, error_response
from .scheduler import Scheduler


@dataclass(frozen=True)
class Settings:
    """key: bearer key of the endpoints, None for none. page: whether there is one."""

    key: str | None = None
    uploads: UploadLimits = UploadLimits()
    page: bool = True


def create_app(scheduler: Scheduler, reload: Callable[[], DualWhisper], uploads: Path,
               settings: Settings = Settings()) -> FastAPI:  # fmt: skip
    """The application. `reload` gives the model with the packs that are there now; uploads lie in a folder meanwhile."""
    monitoring = Monitoring(scheduler)
    app = FastAPI(title="dualasr", version=version("dualasr"), docs_url=None, redoc_url=None)
    for kind in (ApiError, DualasrError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, error_response)
    app.add_middleware(Gate, scheduler=scheduler, key=settings.key, limits=settings.uploads)
    app.add_middleware(Measured, monitoring=monitoring)
    app.state.under_way = monitoring.under_way
    app.include_router(router(scheduler, uploads))

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok", "models": list(models_of(scheduler.model)), "queue": len(scheduler)}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(monitoring.text(), media_type=CONTENT_TYPE_LATEST)

    if settings.key is not None:
        exchange = asyncio.Lock()

        @app.post("/admin/packs/reload")
        async def reload_packs() -> dict:
            """Load the packs that are there now; requests under way keep theirs, and a pack that is no good changes nothing."""
            async with exchange:
                before = scheduler.model
                scheduler.model = await asyncio.to_thread(reload)
            after = scheduler.model.packs
            return {"packs": sorted(after), "added": sorted(set(after) - set(before.packs)),
                    "removed": sorted(set(before.packs) - set(after))}  # fmt: skip

    for prefix in ("/v1", "/admin"):  # else the page would take what nobody serves

        @app.api_route(prefix + "/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False)
        def nothing(rest: str) -> Response:
            raise ApiError(404, "There is no such endpoint, or not by this method; /openapi.json lists them.", code="not_found")

    if settings.page:
        from .page import mount_page

        mount_page(app, scheduler, settings.key)
    return app
