"""The server as one FastAPI application: middleware, endpoints and page."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from dualasr.errors import DualasrError
from dualasr.model.dual_whisper import DualWhisper

from .limits import Gate, UploadLimits
from .monitoring import Measured, Monitoring
from .openai_api import models_of, router
from .openai_errors import ApiError, error_response
from .scheduler import Scheduler
from .schemas import BEARER, Health, Packs, errors

METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    Attributes:
        key: Bearer key of the endpoints and password of the page; None for no key.
        uploads: Limits of request bodies.
        page: Whether to serve the page.
    """

    key: str | None = None
    uploads: UploadLimits = UploadLimits()
    page: bool = True


def create_app(
    scheduler: Scheduler,
    reload: Callable[[], DualWhisper],
    uploads: Path,
    settings: Settings = Settings(),
) -> FastAPI:
    """Build the application.

    Args:
        scheduler: The scheduler, with its model.
        reload: Function that loads the model with the packs that are on disk now.
        uploads: Folder for sound files while they are transcribed.
        settings: Key, limits and page.

    Returns:
        The application.
    """
    monitoring = Monitoring(scheduler)
    app = FastAPI(
        title="dualasr",
        version=version("dualasr"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for kind in (ApiError, DualasrError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, error_response)
    app.add_middleware(Gate, scheduler=scheduler, key=settings.key, limits=settings.uploads)
    app.add_middleware(Measured, monitoring=monitoring)
    app.state.under_way = monitoring.under_way
    app.include_router(router(scheduler, uploads))

    @app.get("/health", response_model=Health)
    def health() -> dict:
        """Report that the server runs, the loaded models, and the length of the queue."""
        return {"status": "ok", "models": list(models_of(scheduler.model)), "queue": len(scheduler)}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Report metrics for Prometheus."""
        return Response(monitoring.text(), media_type=CONTENT_TYPE_LATEST)

    if settings.key is not None:
        reloading = asyncio.Lock()

        @app.post(
            "/admin/packs/reload",
            response_model=Packs,
            responses=errors(400, 401, 500),
            dependencies=[Depends(BEARER)],
        )
        async def reload_packs() -> dict:
            """Load the packs that are on disk now.

            Requests under way keep the packs that they began with. If a pack cannot be loaded, the
            server keeps all old packs.
            """
            async with reloading:
                before = scheduler.model
                scheduler.model = await asyncio.to_thread(reload)
            after = scheduler.model.packs
            return {
                "packs": sorted(after),
                "added": sorted(set(after) - set(before.packs)),
                "removed": sorted(set(before.packs) - set(after)),
            }

    known = list(app.routes)
    # The page is mounted at / and would answer wrong paths of the API with HTML.
    for prefix in ("/v1", "/admin", "/health", "/metrics", "/audio"):

        @app.api_route(prefix, methods=METHODS, include_in_schema=False)
        @app.api_route(prefix + "/{rest:path}", methods=METHODS, include_in_schema=False)
        def no_endpoint(request: Request) -> Response:
            if allowed := _methods(known, request.scope):
                raise ApiError(
                    405,
                    f"This endpoint does not allow {request.method}; use {', '.join(allowed)}.",
                    code="method_not_allowed",
                    headers={"Allow": ", ".join(allowed)},
                )
            raise ApiError(
                404, "There is no such endpoint; /openapi.json lists them.", code="not_found"
            )

    if settings.page:
        from .page import mount_page

        mount_page(app, scheduler, settings.key)
    return app


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """Return the HTTP methods that some route allows for the path of a request."""
    scopes = {method: {**scope, "method": method} for method in METHODS}
    return [
        method
        for method in METHODS
        if any(route.matches(scopes[method])[0] is Match.FULL for route in routes)
    ]
