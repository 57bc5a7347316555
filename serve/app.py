"""The server as one FastAPI application: middleware, endpoints and page."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Scope

from dualasr.errors import DualasrError
from dualasr.model.dual_whisper import DualWhisper

from .doorway import Doorway
from .limits import Gate, UploadLimits
from .monitoring import Measured, Monitoring
from .openai_api import endpoints, models_of
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
        hosts: Names that requests may give as their Host; () for any.
        cors_origins: Origins whose pages may read the endpoints, such as "https://a.example"; "*"
            for all of them.
        strict_models: Whether a request must name a model that is here; otherwise names that
            clients of other servers send mean "auto".
        keep_files_s: Seconds for which unused uploads and transcripts of the page are kept.
    """

    key: str | None = None
    uploads: UploadLimits = UploadLimits()
    page: bool = True
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    strict_models: bool = False
    keep_files_s: float = 3600.0


class _Application(FastAPI):
    """The application, with what stands before even its handler of unexpected errors."""

    outermost: Callable[[ASGIApp], ASGIApp]

    def build_middleware_stack(self) -> ASGIApp:
        return self.outermost(super().build_middleware_stack())


def create_app(
    scheduler: Scheduler,
    reload: Callable[[], DualWhisper],
    folder: Path,
    settings: Settings = Settings(),
) -> FastAPI:
    """Build the application.

    Args:
        scheduler: The scheduler, with its model.
        reload: Function that loads the model with the packs that are on disk now.
        folder: Private folder for sound files while they are transcribed, and for the page's files.
        settings: Key, limits and page.

    Returns:
        The application.
    """
    monitoring = Monitoring(scheduler)
    app = _Application(
        title="dualasr",
        version=version("dualasr"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for kind in (ApiError, DualasrError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, error_response)
    app.outermost = lambda inner: Measured(Doorway(inner, settings.hosts), monitoring)
    app.add_middleware(Gate, scheduler=scheduler, key=settings.key, limits=settings.uploads)
    # Without it, gradio would let the pages of all origins read the page.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
    )
    app.state.under_way = monitoring.under_way
    app.include_router(endpoints(scheduler, folder, strict=settings.strict_models))

    @app.get("/health", response_model=Health)
    def health() -> dict:
        """Report that the server runs, the loaded models, and the length of the queue."""
        return {"status": "ok", "models": list(models_of(scheduler.model)), "queue": len(scheduler)}

    @app.get(
        "/metrics",
        response_class=Response,
        responses=errors(401) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        dependencies=[Depends(BEARER)],
    )
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
    # With a page, it answers all other paths.
    prefixes = ("/v1", "/admin", "/health", "/metrics", "/audio", "/inference", "/openapi.json")
    for prefix in prefixes if settings.page else ("",):

        @app.api_route(prefix or "/", methods=METHODS, include_in_schema=False)
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
        files = folder / "page"
        # Gradio looks here when it is imported, when the page is built, and while it serves.
        os.environ["GRADIO_TEMP_DIR"] = str(files)
        from .page import mount_page

        mount_page(app, scheduler, files, settings.key, settings.keep_files_s)
    return app


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """Return the HTTP methods that some route allows for the path of a request."""
    scopes = {method: {**scope, "method": method} for method in METHODS}
    return [
        method
        for method in METHODS
        if any(route.matches(scopes[method])[0] is Match.FULL for route in routes)
    ]
