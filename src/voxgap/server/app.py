"""The application: routes, pages, and one line for each thing that goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from voxgap import __version__
from voxgap.errors import VoxgapError, visible
from voxgap.runtime import Predictor
from voxgap.runtime import load as load_bundle
from voxgap.server import pages, routes
from voxgap.server.guard import Guard
from voxgap.server.limits import RequestError, Settings, busy
from voxgap.server.service import Service


def create_app(
    bundle: str | Path, settings: Settings | None = None, load: Callable[[Path], Predictor] = load_bundle
) -> FastAPI:
    """Make the application that serves a bundle.

    Args:
        bundle: Its folder.
        settings: Limits; by default those of `Settings`.
        load: Takes the folder and returns a predictor: `voxgap.load`, perhaps with an engine chosen.

    Returns:
        An ASGI application, for `serve` or any ASGI server with one worker. Its requests need its lifespan.

    Raises:
        VoxgapError: The bundle can't be loaded.
    """
    service = Service(Path(bundle), settings or Settings(), load)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="voxgap",
        version=__version__,
        summary=f"{service.live.current.name}: predictions for volumes with missing values.",
        # Both load their scripts from elsewhere; `pages` has one that doesn't.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(routes.router)
    pages.add(app)
    app.add_middleware(Guard, service=service)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(VoxgapError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(TimeoutError, _late)
    app.add_exception_handler(ClientDisconnect, _gone)
    return app


def _failure(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    said = {"detail": visible(detail), "request_id": request.state.request_id}
    return JSONResponse(said, status_code=status, headers=headers)


def _request_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return _failure(request, error.status, error.detail, error.headers)


def _refused(request: Request, error: Exception) -> JSONResponse:
    return _failure(request, 422, str(error))


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _failure(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _failure(request, 422, f"{' '.join(map(str, first['loc']))}: {first['msg']}")


def _late(request: Request, _: Exception) -> JSONResponse:
    seconds, place = request.app.state.service.settings.timeout, request.state.place
    if place.pushed_out:
        return _request_error(request, busy())
    if not place.taken:
        return _failure(request, 408, f"the body did not arrive within {seconds:g} s; send it again")
    return _failure(request, 504, f"no answer within {seconds:g} s; send fewer volumes, or try again later")


def _gone(request: Request, _: Exception) -> JSONResponse:
    return _failure(request, 400, "the connection ended before the body did")
