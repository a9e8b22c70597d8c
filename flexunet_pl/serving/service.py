"""The models of a service, and what requests to them share."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import HTTPException

from flexunet_pl.inference.onnx_infer import InferenceError, Labels, Model, Prediction, Tiling
from flexunet_pl.serving.answers import UInt8Array, segment
from flexunet_pl.serving.gate import too_large
from flexunet_pl.serving.limits import BusyError, Limits, TooLargeError, Workers
from flexunet_pl.serving.metrics import Metrics


class Service:
    """Models by name, and what requests to them share."""

    def __init__(self, models: Mapping[str, Model], limits: Limits, tile: int | None = None) -> None:
        """Serve ``models``, the first of which answers requests that name none, in tiles of side ``tile`` if given.

        Raises:
            InferenceError: If tiles of this side do not fit a model.
        """
        self.models = dict(models)
        self.limits = limits
        self.tilings = {name: None if tile is None else model.tiling(tile) for name, model in models.items()}
        self.workers = Workers(limits.queue)
        self.metrics = Metrics()
        self.metrics.places.set(self.workers.places)

    def chosen(self, name: str | None) -> tuple[str, Model, Tiling | None]:
        """Return the model of this name; HTTPException 404 if there is none."""
        key = next(iter(self.models)) if name is None else name
        if key not in self.models:
            raise HTTPException(404, f"model={key!r} is not served here; choose from {', '.join(self.models)}")
        return key, self.models[key], self.tilings[key]

    async def segment(self, name: str | None, content: bytes) -> tuple[Prediction, UInt8Array, Labels]:
        """Segment the content of an image file in a worker; HTTPException 422 if it cannot be."""
        key, model, tiling = self.chosen(name)
        started = time.monotonic()
        try:
            found, image = await self.workers.run(lambda: segment(model, content, self.limits.max_pixels, tiling))
        except InferenceError as error:
            raise HTTPException(422, str(error)) from error
        self.metrics.images.labels(key).inc()
        self.metrics.seconds.labels(key).observe(time.monotonic() - started)
        return found, image, model.labels

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold a place for a limited time while the block runs.

        Raises:
            HTTPException: 503 if there is no place, 413 if the block raises TooLargeError, 504 if it takes too long.
        """
        try:
            with self.workers.place():
                self.metrics.taken.set(self.workers.taken)
                async with asyncio.timeout(self.limits.seconds):
                    yield
        except BusyError:
            raise HTTPException(503, "all places are taken; try again", {"Retry-After": "1"}) from None
        except TooLargeError:
            raise HTTPException(413, too_large(self.limits)) from None
        except TimeoutError:
            raise HTTPException(504, f"took longer than {self.limits.seconds:g} s; send a smaller image") from None
        finally:
            self.metrics.taken.set(self.workers.taken)


def facts_of(model: Model) -> dict[str, Any]:
    """Return what the labels of a model say, for JSON."""
    labels = model.labels
    return {
        "classes": [
            {"name": name, "color": list(color)} for name, color in zip(labels.names, labels.colors, strict=True)
        ],
        "channels": labels.channels,
        "image_size": list(labels.image_size),
        "resize": labels.resize,
        "min_region_area": labels.min_region_area,
    }
