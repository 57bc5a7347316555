"""The server: endpoints, page, and what stands before them, in one FastAPI application."""

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

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


@dataclass(frozen=True)
class Settings:
    """key: bearer key of the endpoints, None for none. page: whether there is one."""

    key: str | None = None
    uploads: UploadLimits = UploadLimits()
    page: bool = True


def create_app(
    scheduler: Scheduler,
    reload: Callable[[], DualWhisper],
    uploads: Path,
    settings: Settings = Settings(),
) -> FastAPI:
    """The application. `reload` gives the model with the packs that are there now; uploads lie in a
    folder meanwhile.
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
        """That it is up, what is loaded, and how many wait."""
        return {"status": "ok", "models": list(models_of(scheduler.model)), "queue": len(scheduler)}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """For Prometheus."""
        return Response(monitoring.text(), media_type=CONTENT_TYPE_LATEST)

    if settings.key is not None:
        exchange = asyncio.Lock()

        @app.post(
            "/admin/packs/reload",
            response_model=Packs,
            responses=errors(400, 401, 500),
            dependencies=[Depends(BEARER)],
        )
        async def reload_packs() -> dict:
            """Load the packs that are there now; requests under way keep theirs, and a pack that is
            no good changes nothing.
            """
            async with exchange:
                before = scheduler.model
                scheduler.model = await asyncio.to_thread(reload)
            after = scheduler.model.packs
            return {
                "packs": sorted(after),
                "added": sorted(set(after) - set(before.packs)),
                "removed": sorted(set(before.packs) - set(after)),
            }

    known = list(app.routes)
    # else the page would take what nobody serves
    for prefix in ("/v1", "/admin", "/health", "/metrics", "/audio"):

        @app.api_route(prefix, methods=METHODS, include_in_schema=False)
        @app.api_route(prefix + "/{rest:path}", methods=METHODS, include_in_schema=False)
        def nothing(request: Request) -> Response:
            if allowed := _methods(known, request.scope):
                raise ApiError(
                    405,
                    f"Not by {request.method}; by {', '.join(allowed)}.",
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
    """Those by which the path of a request can be asked for."""
    asked = {method: {**scope, "method": method} for method in METHODS}
    return [
        method
        for method in METHODS
        if any(route.matches(asked[method])[0] is Match.FULL for route in routes)
    ]
