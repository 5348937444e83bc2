"""GET /, /docs, and the files that these two pages are made of.

They are the same for everybody and tell nothing, and a browser can't send a key while it navigates:
so they are open. Whatever they show comes from routes that take a key.
"""

import os
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parents[1] / "page"
# Of the package that carries Swagger UI, nothing else is used.
SWAGGER = "fastapi_swagger"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
ASSETS = (".css", ".js", ".svg")

POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)
# Text never becomes HTML here: the browser refuses it. Swagger UI can't do without.
PAGE_POLICY = f"{POLICY}; require-trusted-types-for 'script'"
# The pictures in Swagger UI's style sheet are part of it.
DOCS_POLICY = f"{POLICY}; img-src 'self' data:"


class Files(StaticFiles):
    """The files of a folder, as parts of a page.

    Args:
        folder: where they are.
        policy: the Content-Security-Policy that they go with.
    """

    def __init__(self, folder: Path, policy: str) -> None:
        super().__init__(directory=folder)
        self._policy = policy

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Give a file, or say that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_page = os.fspath(full_path).endswith(".html")
        response.headers["content-security-policy"] = self._policy
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "no-referrer"
        # A page is always the one that goes with the server; its parts are asked for by their ETag.
        response.headers["cache-control"] = "no-store" if is_page else "no-cache"
        return response


def paths() -> set[str]:
    """Give the paths of all of them."""
    assets = {f"/page/{file.name}" for file in FOLDER.iterdir() if file.suffix in ASSETS}
    return {"/", "/docs", *assets, *(f"/docs/{name}" for name in SWAGGER_FILES)}


def make_router() -> APIRouter:
    """Make the routes."""
    router = APIRouter(include_in_schema=False)
    ours = Files(FOLDER, PAGE_POLICY)
    docs = Files(FOLDER, DOCS_POLICY)
    swagger = Files(Path(str(files(SWAGGER) / "resources")), DOCS_POLICY)

    @router.get("/")
    async def page(request: Request) -> Response:
        return await ours.get_response("index.html", request.scope)

    @router.get("/docs")
    async def api_docs(request: Request) -> Response:
        return await docs.get_response("docs.html", request.scope)

    @router.get("/page/{name}")
    async def asset(name: str, request: Request) -> Response:
        return await ours.get_response(name, request.scope)

    @router.get("/docs/{name}")
    async def docs_asset(name: str, request: Request) -> Response:
        if name not in SWAGGER_FILES:
            raise HTTPException(404)
        return await swagger.get_response(name, request.scope)

    return router
