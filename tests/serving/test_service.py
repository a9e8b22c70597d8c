"""The HTTP service: the answers of the model, limits that hold, and an end that loses no request."""

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx_models import GREEN, RED, write_model
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.inference.onnx_infer import Model, Tiling
from flexunet_pl.serving.app import create_app
from flexunet_pl.serving.limits import BusyError, Limits, Workers
from flexunet_pl.serving.service import Service

KEY = "a key of 16 char"


def picture(size: tuple[int, int] = (24, 40)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return uint8 (H, W, 3), red on the left and green on the right."""
    pixels = np.full((*size, 3), GREEN, np.uint8)
    pixels[:, : size[1] // 2] = RED
    return pixels


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def serving(*words: str, env: dict[str, str] | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run flexunet serve on a free port; yield its address and process."""
    command = [sys.executable, "-m", "flexunet_pl", "serve", *words, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {}))
    try:
        assert process.stderr is not None
        said = ""
        while " at http://" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield said.partition(" at ")[2].partition(";")[0], process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiles"
    folder.mkdir()
    write_model(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    other = write_model(tmp_path_factory.mktemp("other") / "plates.onnx", min_region_area=1000)
    with serving(str(bundle), str(other), "--max-bytes", "200000", "--max-pixels", "20000") as (where, _):
        yield where


def test_an_answer_is_that_of_the_model(address: str, bundle: Path) -> None:
    pixels = picture()
    found = Model(bundle).predict(pixels)
    reply = httpx.post(f"{address}/predict", content=png(pixels), params={"pictures": "mask,overlay", "name": "a.png"})
    facts = reply.json()
    assert reply.status_code == 200
    assert (facts["image"], facts["height"], facts["width"]) == ("a.png", 24, 40)
    assert facts["pixels"] == {"background": 480, "crack": 480, "oil": 0}
    assert facts["score"] == pytest.approx(found.defect_probability, abs=1e-6)
    assert (facts["decision"], facts["classes"], facts["threshold"]) == ("NG", ["crack"], 0.5)
    (region,) = facts["regions"]
    assert (region["class"], region["box"], region["area_px"]) == ("crack", [20, 0, 40, 24], 480)
    assert facts["drift_score"] is None
    mask = Image.open(io.BytesIO(base64.b64decode(facts["mask"])))
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), found.mask_index)
    assert np.array_equal(np.asarray(mask.convert("RGB"))[0, -1], (255, 0, 0))
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(facts["overlay"]))))
    assert overlay[0, -1].tolist() == [GREEN[0] // 2 + 127, GREEN[1] // 2, GREEN[2] // 2]
    assert overlay[0, 0].tolist() == list(RED)
    alone = httpx.post(f"{address}/predict/mask", content=png(pixels))
    assert alone.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(alone.content))), found.mask_index)


def test_several_models_are_served_by_name(address: str) -> None:
    assert httpx.get(f"{address}/health").json()["models"] == ["tiles", "plates"]
    models = httpx.get(f"{address}/models").json()
    assert [entry["name"] for entry in models["plates"]["classes"]] == ["background", "crack", "oil"]
    reply = httpx.post(f"{address}/predict", content=png(picture()), params={"model": "plates"})
    assert reply.json()["pixels"]["crack"] == 0  # below its min_region_area
    reply = httpx.post(f"{address}/predict", content=png(picture()), params={"model": "bolts"})
    assert reply.status_code == 404
    assert reply.json() == {"error": "model='bolts' is not served here; choose from tiles, plates"}


def test_one_image_of_a_batch_that_is_none_does_not_hide_the_others(address: str) -> None:
    files = [
        ("images", ("a.png", png(picture()))),
        ("images", ("b.png", b"none")),
        ("images", ("c.png", png(picture()))),
    ]
    answers = httpx.post(f"{address}/batch", files=files).json()
    assert [entry["image"] for entry in answers] == ["a.png", "b.png", "c.png"]
    assert answers[1]["error"] == (
        "image: cannot be read as an image; replace the file (UnidentifiedImageError: cannot identify image file)"
    )
    assert answers[0]["pixels"] == answers[2]["pixels"]


def chunks() -> Iterator[bytes]:
    """Yield a body without Content-Length."""
    for _ in range(30):
        yield b"\0" * 10_000


@pytest.mark.parametrize(
    ("path", "options", "status", "said"),
    [
        ("/predict", {"content": b"none"}, 422, "cannot be read as an image"),
        ("/predict", {"content": b""}, 422, "cannot be read as an image"),
        ("/predict", {"content": b"\0" * 200_001}, 413, "more than 200000 bytes"),
        ("/predict", {"content": chunks()}, 413, "more than 200000 bytes"),
        ("/predict", {"content": png(np.zeros((200, 200, 3), np.uint8))}, 422, "200 x 200 pixels exceed"),
        ("/predict?pictures=contour", {"content": b""}, 422, "pictures='contour'; choose from mask, overlay"),
        ("/predict/contour", {"content": b""}, 422, "kind"),
        ("/batch", {"content": b""}, 422, "no file; send image files in the field images"),
        ("/batch", {"files": [("images", (f"{n}.png", b"x")) for n in range(65)]}, 422, "at most 64 files"),
        (
            "/batch",
            {"content": chunks(), "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            (413, 422),
            "",
        ),
        ("/nothing", {"content": b""}, 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_one_error(
    address: str, path: str, options: dict[str, Any], status: int | tuple[int, ...], said: str
) -> None:
    reply = httpx.post(address + path, **options)
    assert reply.status_code in (status if isinstance(status, tuple) else (status,))
    assert said in json.dumps(reply.json())
    assert "Traceback" not in reply.text
    assert httpx.get(f"{address}/health").status_code == 200


def test_figures_count_requests_and_images(address: str) -> None:
    def figure(name: str) -> float:
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    images, refused = 'flexunet_images_total{model="tiles"}', 'flexunet_requests_total{path="/predict",status="422"}'
    before = figure(images), figure(refused)
    for content in (png(picture()), png(picture()), b"none"):
        httpx.post(f"{address}/predict", content=content)
    assert (figure(images), figure(refused)) == (before[0] + 2, before[1] + 1)
    assert figure("flexunet_requests_in_progress") == 0


def test_the_page_of_the_service_needs_no_network(address: str) -> None:
    page = httpx.get(f"{address}/docs").text
    assert "http://" not in page.replace(address, "")
    assert "https://" not in page
    assert httpx.get(f"{address}/docs/assets/swagger-ui-bundle.js").status_code == 200
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]
    assert {"/predict", "/predict/{kind}", "/batch", "/models", "/health", "/metrics"} <= paths.keys()


@pytest.mark.parametrize("how", ["file", "variable"])
def test_a_key_is_asked_for(bundle: Path, tmp_path: Path, how: str) -> None:
    (tmp_path / "key.txt").write_text(f"{KEY}\n")
    words = ["--api-key-file", str(tmp_path / "key.txt")] if how == "file" else []
    with serving(str(bundle), *words, env={"FLEXUNET_API_KEY": KEY} if how == "variable" else None) as (where, _):
        assert httpx.get(f"{where}/health").status_code == 200
        for headers in ({}, {"X-API-Key": "another"}, {"Authorization": "Bearer x"}):
            reply = httpx.post(f"{where}/predict", content=png(picture()), headers=headers)
            assert (reply.status_code, reply.json()) == (
                401,
                {"error": "the key is missing or wrong; send it as X-API-Key"},
            )
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
            assert httpx.post(f"{where}/predict", content=png(picture()), headers=headers).status_code == 200


def test_a_stop_loses_no_accepted_request(bundle: Path) -> None:
    content = png(np.tile(picture((200, 200)), (4, 4, 1)))
    with serving(str(bundle), "--threads", "1") as (where, process), ThreadPoolExecutor(8) as threads:
        accepted = threading.Event()

        def ask(_number: int) -> int:
            with httpx.Client() as client:
                accepted.set()
                return client.post(f"{where}/predict", content=content, timeout=60).status_code

        replies = [threads.submit(ask, number) for number in range(8)]
        accepted.wait()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert [reply.result() for reply in replies] == [200] * 8
        process.wait(timeout=30)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{where}/health")


class SlowModel(Model):
    """Takes as long as the image's first value says, in tenths of a second."""

    def predict(self, image: Any, tiling: Tiling | None = None) -> Any:
        time.sleep(image[0, 0, 0] / 10)
        return super().predict(image, tiling)


def slow_service(bundle: Path, **limits: Any) -> httpx.AsyncClient:
    service = Service({"slow": SlowModel(bundle)}, replace(Limits(), **limits))
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")


def slow_image(tenths: int) -> bytes:
    return png(np.full((8, 8, 3), tenths, np.uint8))


def test_more_requests_than_places_are_told_to_come_back(bundle: Path) -> None:
    async def ask_ten() -> list[httpx.Response]:
        async with slow_service(bundle, queue=2) as client:
            return await asyncio.gather(*(client.post("/predict", content=slow_image(5)) for _ in range(10)))

    replies = asyncio.run(ask_ten())
    assert sorted(reply.status_code for reply in replies) == [200] * 5 + [503] * 5  # three threads, two wait
    refused = next(reply for reply in replies if reply.status_code == 503)
    assert (refused.json()["error"], refused.headers["retry-after"]) == ("all places are taken; try again", "1")


def test_a_request_that_takes_too_long_ends_and_frees_its_place_when_its_work_does(bundle: Path) -> None:
    async def ask() -> list[int]:
        async with slow_service(bundle, seconds=0.2, queue=0) as client:
            late = await asyncio.gather(*(client.post("/predict", content=slow_image(10)) for _ in range(3)))
            busy = await client.post("/predict", content=slow_image(0))
            await asyncio.sleep(1.2)
            free = await client.post("/predict", content=slow_image(0))
            return [reply.status_code for reply in (*late, busy, free)]

    assert asyncio.run(ask()) == [504, 504, 504, 503, 200]


def test_work_that_waits_is_withdrawn() -> None:
    ran: list[int] = []

    async def two() -> None:
        workers = Workers(queue=1, threads=1)
        with workers.place():
            first = asyncio.create_task(workers.run(lambda: time.sleep(0.3)))
            second = asyncio.create_task(workers.run(lambda: ran.append(1)))
            await asyncio.sleep(0.05)
            second.cancel()
            await first
        with workers.place(), workers.place(), pytest.raises(BusyError), workers.place():
            pass
        workers.close()

    asyncio.run(two())
    assert ran == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such model"),
        ([], "bundles"),
        (["BUNDLE", "--port", "70000"], "--port 70000 must be 0"),
        (["BUNDLE", "--engine", "tvm"], "--engine tvm: choose from onnxruntime, openvino"),
        (["BUNDLE", "--queue", "-1"], "--queue=-1 must be at least 0"),
        (["BUNDLE", "--tile", "0"], "--tile 0"),
        (["BUNDLE", "--api-key-file", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["BUNDLE", "--prot", "80"], "did you mean"),
    ],
)
def test_a_mistake_is_one_error(words: list[str], said: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["serve", *(str(bundle) if word == "BUNDLE" else word for word in words)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_taken_port_is_named(bundle: Path) -> None:
    with serving(str(bundle)) as (where, _):
        port = where.rpartition(":")[2]
        command = [sys.executable, "-m", "flexunet_pl", "serve", str(bundle), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"--port {port}: cannot listen there; choose another port" in done.stderr


def test_the_service_needs_no_torch() -> None:
    code = (
        "import sys, flexunet_pl.cli.serve, flexunet_pl.serving.app\n"
        "assert not {'torch', 'lightning', 'scipy', 'matplotlib'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_limits_are_checked() -> None:
    with pytest.raises(UserError, match="--max_bytes=0 must be at least 1"):
        Limits(max_bytes=0)
