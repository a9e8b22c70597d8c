"""The ASGI application of a service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from swagger_ui_bundle import swagger_ui_path

from flexunet_pl import __version__
from flexunet_pl.serving.gate import Gate, failure
from flexunet_pl.serving.routes import router
from flexunet_pl.serving.service import Service

ASSETS = "/docs/assets"


def create_app(service: Service, api_key: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        service: What is served.
        api_key: Key that requests must send as ``X-API-Key`` or ``Authorization: Bearer``; None for no check.
    """
    app = FastAPI(
        title="flexunet_pl",
        version=__version__,
        description="Segments images with exported models.",
        docs_url=None,
        redoc_url=None,
        lifespan=_until_the_last_answer,
        exception_handlers={HTTPException: _explained},
    )
    app.openapi_version = "3.0.3"  # what the page of the bundled Swagger UI reads
    app.state.service = service
    app.include_router(router)
    app.mount(ASSETS, StaticFiles(directory=swagger_ui_path), "assets")
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.add_middleware(Gate, limits=service.limits, metrics=service.metrics, api_key=api_key)
    return app


@asynccontextmanager
async def _until_the_last_answer(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.service.workers.close()


async def _explained(_request: Request, error: Exception) -> Response:
    found = cast(HTTPException, error)  # what it is registered for
    return failure(found.status_code, str(found.detail), found.headers)


async def _docs() -> HTMLResponse:
    """Return the page that shows how to ask; its scripts come from an installed package, not from the network."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="flexunet_pl",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon-32x32.png",
    )
