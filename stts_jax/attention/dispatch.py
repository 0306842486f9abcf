"""The backends of attention, best first, and which of them a request is computed by.

docs/attention.md has this as a table by platform, and says how to add a backend.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, Literal, TypeVar

import jax

from stts_jax.attention.gpu import cudnn, limits
from stts_jax.attention.gpu import flash as gpu_flash
from stts_jax.attention.gpu import stream as gpu_stream
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.attention.tpu import flash as tpu_flash
from stts_jax.attention.tpu import splash
from stts_jax.attention.tpu import stream as tpu_stream
from stts_jax.attention.xla import blockwise
from stts_jax.attention.xla import stream as xla_stream

LOG = logging.getLogger(__name__)
R = TypeVar("R")


@dataclass(frozen=True)
class Backend(Generic[R]):
    """One way to compute attention.

    Attributes:
      name: of the backend, for `attention(backend=...)`.
      platform: the only one it runs on, or None for any.
      unsupported: why it cannot compute a request even on its platform, or None.
      run: computes the request.
    """

    name: str
    platform: Literal["tpu", "gpu"] | None
    unsupported: Callable[[R], str | None]
    run: Callable[[R], jax.Array]

    def unsupported_reason(self, request: R) -> str | None:
        """Returns why it cannot compute the request on this machine, or None."""
        reason = None if self.platform is None else unsupported_platform(self.platform)
        return reason or self.unsupported(request)


BACKENDS: tuple[Backend[AttentionRequest], ...] = (
    Backend("stream_tpu", "tpu", tpu_stream.unsupported_frames, tpu_stream.frame_attention),
    Backend("splash", "tpu", splash.unsupported, splash.splash_attention),
    Backend("flash_tpu", "tpu", tpu_flash.unsupported, tpu_flash.flash_attention),
    Backend("cudnn", "gpu", cudnn.unsupported, cudnn.cudnn_attention),
    Backend("flash_gpu", "gpu", gpu_flash.unsupported, gpu_flash.flash_attention),
    Backend("xla", None, lambda request: None, blockwise.xla_attention),
)
STREAM_BACKENDS: tuple[Backend[StreamRequest], ...] = (
    Backend("stream_tpu", "tpu", tpu_stream.unsupported_stream, tpu_stream.stream_attention),
    Backend("stream_gpu", "gpu", gpu_stream.unsupported, gpu_stream.stream_attention),
    # Comes after `stream_gpu`, so it runs only if it is asked for by name.
    Backend("cudnn", "gpu", cudnn.unsupported_stream, cudnn.cudnn_stream_attention),
    Backend("segments", None, xla_stream.unsupported_segments, xla_stream.segment_attention),
    Backend("dense", None, xla_stream.unsupported_dense, xla_stream.dense_attention),
    Backend("neighbours", None, lambda request: None, xla_stream.neighbour_attention),
)
# Former names, which callers may still use.
RENAMED = {
    "stream_kernel": "stream_tpu",
    "stream_triton": "stream_gpu",
    "place_kernel": "flash_tpu",
    "place_triton": "flash_gpu",
}


def select_backend(backends: Sequence[Backend[R]], what: str, request: R, name: str) -> Backend[R]:
    """Returns the backend of this name, or for `auto` the first one that can; logs that once.

    Args:
      backends: best first.
      what: they compute, for messages.
      request: to be computed.
      name: of one of them, or `auto`.

    Raises:
      ValueError: for an unknown name, or a backend that cannot compute the request.
    """
    if name == "auto":
        reasons: list[str] = []
        for backend in backends:
            reason = backend.unsupported_reason(request)
            if reason is None:
                _log(what, backend.name, tuple(reasons))
                return backend
            reasons.append(f"{backend.name}: {reason}")
        raise ValueError(f"no backend of {what} can do this: {'; '.join(reasons)}")
    if name in RENAMED:
        _log_renamed(what, name)
    for backend in backends:
        if backend.name == RENAMED.get(name, name):
            if reason := backend.unsupported_reason(request):
                raise ValueError(
                    f"{what} backend '{name}' cannot be used: {reason}; "
                    "backend='auto' takes the best one that can"
                )
            return backend
    known = ", ".join(["auto", *(backend.name for backend in backends)])
    raise ValueError(f"{what} backend '{name}' is unknown; use one of {known}")


@cache
def _log(what: str, name: str, reasons: tuple[str, ...]) -> None:
    LOG.info("%s takes %s%s", what, name, "".join(f"; not {reason}" for reason in reasons))


@cache
def _log_renamed(what: str, name: str) -> None:
    LOG.warning("%s backend '%s' is now called '%s'", what, name, RENAMED[name])


def unsupported_platform(platform: Literal["tpu", "gpu"]) -> str | None:
    """Returns why this platform's kernels cannot run here, or None.

    They need a device of the platform, and with several devices a mesh, along whose axes
    `shard_attention` splits the arrays; the compiler cannot split a kernel.
    """
    here = jax.default_backend()
    if here != platform:
        return f"it needs a {platform.upper()}, and this is a {here}"
    mesh = jax.sharding.get_abstract_mesh()
    is_one = bool(mesh.manual_axes) or (not mesh.empty and mesh.size == 1)
    if jax.device_count() > 1 and not is_one:
        return f"there are {jax.device_count()} devices, and no mesh is set to split arrays by"
    device = jax.local_devices()[0]
    # Programs for another machine's GPU are traced on machines that have none.
    if platform == "gpu" and device.platform == "gpu":
        return limits.unsupported_device(device)
    return None
