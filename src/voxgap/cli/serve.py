"""`voxgap serve`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from voxgap.cli.console import err

if TYPE_CHECKING:
    from voxgap.runtime.engines import Precision


def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder made by voxgap train.", metavar="BUNDLE")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8080,
    engine: Annotated[
        str, typer.Option(help="auto, openvino, onnx, litert, keras ...", rich_help_panel="Network")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="float32 or fast.", rich_help_panel="Network")] = "float32",
    threads: Annotated[
        int | None,
        typer.Option(help="Cores for the network; all by default.", min=1, rich_help_panel="Network"),
    ] = None,
    reload: Annotated[
        float, typer.Option(help="Look for a new bundle every so many seconds; 0: on SIGHUP only.", min=0)
    ] = 0,
    max_batch: Annotated[
        int, typer.Option(help="Volumes through the network at once.", min=1, rich_help_panel="Batches")
    ] = 16,
    max_wait: Annotated[
        float, typer.Option(help="Milliseconds to wait for others.", min=0, rich_help_panel="Batches")
    ] = 4,
    queue: Annotated[
        int, typer.Option(help="Requests inside at once; more get 503.", min=1, rich_help_panel="Limits")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a request.", min=0.1, rich_help_panel="Limits")
    ] = 60,
    parse_timeout: Annotated[
        float, typer.Option(help="Seconds to read a file.", min=0.1, rich_help_panel="Limits")
    ] = 30,
    max_upload: Annotated[int, typer.Option(help="MiB of a request.", min=1, rich_help_panel="Limits")] = 256,
    max_volume: Annotated[
        int, typer.Option(help="MiB of a volume once decoded.", min=1, rich_help_panel="Limits")
    ] = 512,
    parsers: Annotated[
        int, typer.Option(help="Processes that read files.", min=1, max=64, rich_help_panel="Limits")
    ] = 2,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that requests may be for, besides those of this machine; repeat it. '*': any.",
            metavar="NAME",
            rich_help_panel="Limits",
        ),
    ] = None,
    drain: Annotated[
        float, typer.Option(help="Seconds to go on after SIGTERM.", min=0, rich_help_panel="Limits")
    ] = 1,
) -> None:
    """Serve a bundle: an HTTP API for programs, and a page for people.

    [bold]Examples[/]

      voxgap serve runs/brain

      voxgap serve runs/brain --port 9000 --reload 5

      voxgap serve runs/brain --host 0.0.0.0 --allow-host brain.example.org

      curl -F file=@scan.nii.gz http://127.0.0.1:8080/v1/predict
    """
    from voxgap.cli.predict import import_keras_for
    from voxgap.runtime import load as load_bundle
    from voxgap.server import Settings, create_app
    from voxgap.server import serve as run
    from voxgap.server.hosts import ANY, host_name

    names = tuple(host_name(name) for name in allow_host or ())
    if host not in ("127.0.0.1", "localhost", "::1"):
        _warn(
            f"anyone who reaches {host}:{port} can use this server. Keys, TLS and CORS belong to a reverse proxy in "
            "front of it: docs/serve.md"
        )
    if ANY in names:
        _warn(
            f"--allow-host '{ANY}': a page that names itself this server can read its answers (DNS rebinding)"
        )
    settings = Settings(
        max_upload=max_upload * 2**20,
        max_volume=max_volume * 2**20,
        queue=queue,
        timeout=timeout,
        parse_timeout=parse_timeout,
        parsers=parsers,
        max_batch=max_batch,
        max_wait=max_wait / 1000,
        reload=reload,
        drain=drain,
        allow_hosts=names,
    )
    import_keras_for(bundle, precision, engine)
    load = partial(load_bundle, engine=engine, precision=cast("Precision", precision), threads=threads)
    app = create_app(bundle, settings, load)
    run(app, host, port)


def _warn(text: str) -> None:
    err.print(f"[yellow]Warning:[/] {text}", markup=True)
