"""Pages for people: the one at `/`, which is made elsewhere, and the API's at `/docs`, without any script."""

from __future__ import annotations

import html
import json
from collections.abc import Container
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from voxgap.server.bodies import by_curl

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
h2 { font: 600 1rem ui-monospace, monospace; margin: 2.5rem 0 .25rem }
pre { padding: .75rem; overflow-x: auto; background: #8881; border-radius: .4rem; font-size: .85rem }
table { border-collapse: collapse; font-size: .9rem } td { padding: .15rem 1rem .15rem 0; vertical-align: top }
"""
_BY_FILE = "curl {form}"
_CALLS = {
    "/v1/predict": (
        _BY_FILE + " {url}\n"
        "curl -F file=@one.npy -F file=@two.npy {url}\n"
        "curl -H 'Content-Type: application/octet-stream' -H 'X-Shape: {shape}' \\\n"
        "     --data-binary @values.f32 {url}"
    ),
    "/v1/view": _BY_FILE + " {url} -o view.f32",
    "/v1/fill": _BY_FILE + " {url} -o filled.f32",
    "/v1/occlusion": _BY_FILE + " '{url}?block=4' -o occlusion.f32",
    "/v1/label_map": _BY_FILE + " {url} -o labels.i16",
}


def add(app: FastAPI) -> None:
    """Add the pages to the application."""
    with resources.as_file(resources.files("voxgap") / "web" / "assets") as folder:
        index = folder / "index.html"
        app.mount("/static", StaticFiles(directory=folder / "static", check_dir=False), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if not index.is_file():
            return RedirectResponse("/docs")
        return HTMLResponse(index.read_bytes())

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        loaded = app.state.service.live.current
        shape = ",".join(map(str, loaded.input.shape))
        text = api_page(
            app.openapi(), str(request.base_url).rstrip("/"), shape, by_curl(loaded.input.channels)
        )
        return HTMLResponse(text)

    @app.get("/docs.css", include_in_schema=False)
    async def style() -> Response:
        return Response(_STYLE, media_type="text/css")


def api_page(schema: dict[str, Any], base: str, shape: str, form: str) -> str:
    """Write the API down for people: each route, a call to copy, and what it answers.

    Args:
        schema: The OpenAPI schema.
        base: Address of the server.
        shape: Of a volume, as `X-Shape` takes it.
        form: How curl sends one.

    Returns:
        HTML.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>voxgap API</title>"
        "<meta name=viewport content='width=device-width'><link rel=stylesheet href=docs.css>",
        f"<h1>voxgap API</h1><p>{html.escape(schema['info']['summary'])} "
        "The schema is <a href=openapi.json>openapi.json</a>; the page for people is <a href='.'>here</a>.</p>",
        f"<p>A volume is {html.escape(shape)} (depth, height, width, channels); NaN, or null in JSON, is missing.</p>",
    ]
    operations = [
        (path, method, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    # What can go wrong everywhere is said once.
    common = dict.fromkeys(operations[0][2]["responses"])
    for path, method, operation in operations:
        parts.append(_operation(path, method, operation, base + path, {"shape": shape, "form": form}, common))
        if path == "/v1/predict":
            example = schema["components"]["schemas"]["Answer"]["example"]
            parts.append(f"<pre>{html.escape(json.dumps(example, indent=2))}</pre>")
    parts.append(
        "<h2>When there is no result</h2><p>The answer is {detail, request_id}: one line that says why.</p>"
    )
    parts.append(_table(_answers(operations[0][2])))
    return "\n".join(parts)


def _operation(
    path: str, method: str, operation: dict[str, Any], url: str, sent: dict[str, str], common: Container[str]
) -> str:
    call = _CALLS.get(path, "curl {url}").format(url=url, **sent)
    queries = [
        (f"?{p['name']}=", p.get("description", ""))
        for p in operation.get("parameters", [])
        if p["in"] == "query"
    ]
    own = [(status, text) for status, text in _answers(operation) if status == "200" or status not in common]
    about = html.escape(operation["description"]).replace("`", "")
    return (
        f"<h2>{method.upper()} {html.escape(path)}</h2><p>{about}</p><pre>{html.escape(call)}</pre>"
        f"{_table(queries + own)}"
    )


def _answers(operation: dict[str, Any]) -> list[tuple[str, str]]:
    said = sorted((status, answer["description"]) for status, answer in operation["responses"].items())
    return [
        (status, text) for status, text in said if text not in ("Validation Error", "Successful Response")
    ]


def _table(rows: list[tuple[str, str]]) -> str:
    return f"<table>{''.join(f'<tr><td>{html.escape(a)}<td>{html.escape(b)}' for a, b in rows)}</table>"
