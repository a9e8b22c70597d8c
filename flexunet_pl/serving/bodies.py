"""Bodies of requests: one image, or a form of several, of limited size."""

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Message

from flexunet_pl.serving.limits import TooLargeError


async def body_of(request: Request, most: int) -> bytes:
    """Read a body of at most ``most`` bytes; TooLargeError beyond."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise TooLargeError
    return bytes(content)


def limited(request: Request, most: int) -> Request:
    """Return a request whose body may have ``most`` bytes; reading more raises TooLargeError."""
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise TooLargeError
        return message

    return Request(request.scope, receive)


async def files_of(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Return name and content of the files of a form; HTTPException 422 if it has none, or more than ``most``."""
    try:
        async with request.form(max_files=most, max_fields=16) as form:
            files = [file for file in form.getlist("images") if isinstance(file, UploadFile)]
            found = [(file.filename or f"image {number}", await file.read()) for number, file in enumerate(files)]
    except MultiPartException as error:
        raise HTTPException(422, f"no form of at most {most} files can be read ({error.message})") from error
    except StarletteHTTPException as error:  # how Starlette itself reports such a form
        raise HTTPException(422, f"no form of at most {most} files can be read ({error.detail})") from error
    if not found:
        raise HTTPException(422, "the form has no file; send image files in the field images")
    return found
