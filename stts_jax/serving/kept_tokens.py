"""`/v1/media` and `/v1/kept`: uploads, and what is kept of them, for the page and for programs."""

from __future__ import annotations

import asyncio
import base64
import io
import math
from typing import Any

import numpy as np
import PIL.Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stts_jax.serving.bodies import read_body, read_json, require_type
from stts_jax.serving.chat_request import parse_media_options, parse_media_part
from stts_jax.serving.completions import timings, unless_gone
from stts_jax.serving.decoding_messages import THUMBNAIL
from stts_jax.serving.errors import ServingError
from stts_jax.serving.media_address import UPLOAD
from stts_jax.serving.service import Service, Submitted


async def upload_media(request: Request, service: Service) -> Response:
    """Keeps a picture or video; the answer has its address for other requests."""
    kind = require_type(request, "video/", "image/", "application/octet-stream")
    content = await read_body(request, service.limits.bytes)
    file = await asyncio.to_thread(service.addresses.add, content)
    what = "image" if kind.startswith("image/") else "video"
    return JSONResponse({"url": UPLOAD + file.digest, "type": what, "bytes": file.nbytes}, 201)


async def show_kept(request: Request, service: Service) -> Response:
    """Says which tokens of a picture or video are kept, with scores, times and small frames."""
    body = await read_json(request, service.limits)
    if not isinstance(body, dict):
        raise ServingError("the body is no object of JSON; give one")
    part = parse_media_part(body.get("url"), body.get("type", "video"))
    options = parse_media_options(body, service.limits)
    submitted = await unless_gone(request, service.look(part, options))
    await unless_gone(request, submitted.answer.whole())
    return JSONResponse(_kept(submitted, service, with_frames=body.get("thumbnails") is not False))


def _kept(submitted: Submitted, service: Service, *, with_frames: bool) -> dict[str, Any]:
    seen, prepared = submitted.answer.handle.media, submitted.prepared
    assert seen is not None and prepared is not None
    per_frame = service.config.model.tokens_per_frame
    rule, automatic = service.config.model.prune, service.automatic
    said: dict[str, Any] = {
        "visual_tokens_before": seen.before,
        "visual_tokens_after": seen.after,
        "trained_ratio": rule.topk,
        "threshold": automatic and automatic.model.prune.threshold,
        "is_automatic": rule.threshold > 0,
        "grid": [math.isqrt(per_frame)] * 2,
        "times": np.round(prepared.times, 3).tolist(),
        "cached": seen.cached,
        "timings": timings(submitted),
    }
    if prepared.media.video is not None:  # nothing is dropped of pictures
        said["keep"] = seen.keep[:, :per_frame].astype(int).tolist()
        said["scores"] = np.round(seen.scores[:, :per_frame].astype(float), 4).tolist()
        said["size"] = list(prepared.media.video_size or ())
    if with_frames:
        said["frames"] = [_data_address(each) for each in prepared.thumbnails]
    return said


def _data_address(pixels: np.ndarray) -> str:
    picture, stored = PIL.Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(stored, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stored.getvalue()).decode()
