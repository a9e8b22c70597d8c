"""serve: a thin front for serving/service.py, which needs the extra serve."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from flexunet_pl.cli.parser import call
from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import note
from flexunet_pl.core.errors import UserError
from flexunet_pl.inference.onnx_infer import DEFAULT_MAX_PIXELS, ENGINES, InferenceError, Model
from flexunet_pl.serving.limits import Limits

KEY_VARIABLE = "FLEXUNET_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(words: Sequence[str]) -> int:
    """Run the command; the words before its options are bundles."""
    bundles = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    return call("serve", serve, [*([json.dumps(bundles)] if bundles else []), *words[len(bundles) :]])


def serve(
    bundles: list[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str = "onnxruntime",
    threads: int | None = None,
    tile: int | None = None,
    api_key_file: Path | None = None,
    queue: int = 32,
    timeout: float = 30.0,
    max_bytes: int = 64_000_000,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> int:
    """Serve exported models over HTTP; the page /docs shows how to ask.

    SIGTERM and Ctrl+C end it after the requests that were accepted.

    Args:
        bundles: Bundles (folders with model.onnx) or .onnx files; the first answers requests that name no model.
        host: Address to listen on; 0.0.0.0 for all.
        port: Port to listen on; 0 for a free one.
        engine: Engine that runs the networks, onnxruntime or openvino.
        threads: Threads of the engine (default: all cores).
        tile: Segment at native size in tiles of this side, such as 512.
        api_key_file: File with a key that requests must send (default: the variable FLEXUNET_API_KEY, if it is set).
        queue: How many requests may wait; the next one gets status 503.
        timeout: Seconds that a request may take.
        max_bytes: Most bytes of a request.
        max_pixels: Most pixels of an image.
    """
    import uvicorn

    from flexunet_pl.serving.answers import name_of
    from flexunet_pl.serving.app import create_app
    from flexunet_pl.serving.service import Service

    limits = Limits(max_bytes=max_bytes, max_pixels=max_pixels, seconds=timeout, queue=queue)
    if engine not in ENGINES:
        raise UserError(f"--engine {engine}: choose from {', '.join(ENGINES)}")
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port} must be 0, for a free port, or at most 65535")
    key = _key(api_key_file)
    models: dict[str, Model] = {}
    try:
        for bundle in bundles:
            models[name_of(Path(bundle), [*models])] = Model(bundle, engine, threads)
        service = Service(models, limits, tile)
    except InferenceError as error:
        raise UserError(str(error)) from error
    if key is None and host not in LOOPBACK:
        note(f"warning: anyone who reaches {host}:{port} can use it; set --api_key_file FILE to ask for a key")
    config = uvicorn.Config(create_app(service, key), host, port, access_log=False, log_level="warning")
    try:
        listener = config.bind_socket()
    except SystemExit as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there; choose another port") from error
    where = f"http://{host}:{listener.getsockname()[1]}"
    note(f"{PROGRAM} serves {', '.join(models)} at {where}; {where}/docs shows how to ask")
    uvicorn.Server(config).run([listener])
    return 0


def _key(file: Path | None) -> str | None:
    """Return the key that requests must send, from the file, else from the environment; None for no check."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"--api_key_file {file}: cannot be read ({error}); name a text file") from error
    if not key:
        raise UserError(f"--api_key_file {file}: is empty; write a key of your choice to it")
    return key
