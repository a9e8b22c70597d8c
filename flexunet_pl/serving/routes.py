"""What a service answers to."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from flexunet_pl import __version__
from flexunet_pl.serving.answers import PICTURES, answer, picture, with_pictures
from flexunet_pl.serving.bodies import body_of, files_of, limited
from flexunet_pl.serving.service import Service, facts_of

ONE_IMAGE = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
MANY_IMAGES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}


PNG = "image/png"
UNREADABLE = 422

router = APIRouter()


def service_of(request: Request) -> Service:
    """Return the service that a request is for."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(service_of)]


def pictures_of(pictures: str = "") -> list[str]:
    """Return the pictures that a request wants; HTTPException 422 for one that there is not."""
    wanted = [word for word in pictures.split(",") if word]
    if unknown := set(wanted) - set(PICTURES):
        raise HTTPException(422, f"pictures={min(unknown)!r}; choose from {', '.join(PICTURES)}")
    return wanted


Pictures = Annotated[list[str], Depends(pictures_of)]


@router.get("/health")
async def health(service: Served) -> dict[str, Any]:
    """Whether the service answers, and which models it has."""
    return {"status": "ok", "version": __version__, "models": list(service.models)}


@router.get("/models")
async def models(service: Served) -> dict[str, Any]:
    """What each model is: its classes and their colours, and how it takes images."""
    return {name: facts_of(model) for name, model in service.models.items()}


@router.get("/metrics")
async def metrics(service: Served) -> Response:
    """Figures for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


@router.post("/predict", openapi_extra=ONE_IMAGE)
async def predict(
    request: Request, service: Served, wanted: Pictures, model: str | None = None, name: str = "image"
) -> dict[str, Any]:
    """Segment the image in the body. `pictures=mask,overlay` adds these, as base64 of PNG."""
    async with service.admitted():
        content = await body_of(request, service.limits.max_bytes)
        found, image, labels = await service.segment(model, content)
        facts = answer(name, found, labels)
        return await service.workers.run(lambda: with_pictures(facts, wanted, found, image, labels))


@router.post("/predict/{kind}", openapi_extra=ONE_IMAGE, response_class=Response)
async def predict_picture(
    request: Request, service: Served, kind: Literal["mask", "overlay"], model: str | None = None
) -> Response:
    """Segment the image in the body; answer with the mask or the overlay, a PNG of its size."""
    async with service.admitted():
        content = await body_of(request, service.limits.max_bytes)
        found, image, labels = await service.segment(model, content)
        drawn = await service.workers.run(lambda: picture(kind, found, image, labels))
        return Response(drawn, media_type=PNG)


@router.post("/batch", openapi_extra=MANY_IMAGES)
async def batch(request: Request, service: Served, wanted: Pictures, model: str | None = None) -> list[dict[str, Any]]:
    """Segment several images, sent as a form; one that cannot be read has an `error` in its place."""
    limits = service.limits
    async with service.admitted():
        return [
            await _one_of_batch(service, model, name, content, wanted)
            for name, content in await files_of(limited(request, limits.max_bytes), limits.batch)
        ]


async def _one_of_batch(
    service: Service, model: str | None, name: str, content: bytes, wanted: list[str]
) -> dict[str, Any]:
    try:
        found, image, labels = await service.segment(model, content)
    except HTTPException as error:
        if error.status_code != UNREADABLE:
            raise
        return {"image": name, "error": str(error.detail)}
    facts = answer(name, found, labels)
    return await service.workers.run(lambda: with_pictures(facts, wanted, found, image, labels))
