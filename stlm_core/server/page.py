"""The page for people, and a reader of the API's description: files of this package, nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request, Response

from stlm_core.files import sha256_bytes

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGES = {"/": "index.html", "/docs": "docs.html", "/favicon.ico": "icon.svg"}


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str
    etag: str


def _files() -> dict[str, _File]:
    found = {}
    for entry in resources.files("stlm_core.server").joinpath("static").iterdir():
        kind = _KINDS.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            content = entry.read_bytes()
            found[entry.name] = _File(content, kind, f'"{sha256_bytes(content)[:16]}"')
    return found


def build_page() -> APIRouter:
    """The routes of the page; they need no key, for they show nothing by themselves."""
    router = APIRouter(include_in_schema=False)
    files = _files()

    def serve(path: str, file: _File) -> None:
        headers = {"etag": file.etag, "cache-control": "no-cache"}

        @router.get(path)
        async def get(request: Request) -> Response:
            if request.headers.get("if-none-match") == file.etag:
                return Response(status_code=304, headers=headers)
            return Response(file.content, media_type=file.kind, headers=headers)

    for path, name in _PAGES.items():
        serve(path, files[name])
    for name, file in files.items():
        serve(f"/static/{name}", file)
    return router
