"""Serves a model over HTTP: `stts serve --checkpoint DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_jax.arguments import Parser, local_path
from stts_jax.command_line import (
    add_auto_option,
    add_checkpoint_options,
    add_ratio_option,
    open_config,
    open_model,
    run,
)
from stts_jax.config import Config, ConfigError
from stts_jax.data.evaluation_batches import scaled_frames
from stts_jax.model.video_language_model import Weights, abstract_model, to_answer
from stts_jax.parallel.mesh import make_mesh
from stts_jax.serving.limits import MIB, Limits
from stts_jax.terminal import to_stderr
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.thresholds import with_threshold

if TYPE_CHECKING:
    from stts_jax.inference.engine.settings import EngineSettings
    from stts_jax.serving.access import Access
    from stts_jax.training.checkpointing.opened import OpenedCheckpoint

EXAMPLES = """\
examples:
  stts serve --checkpoint runs/mine
  stts serve --checkpoint runs/mine --host 0.0.0.0 --api-keys keys.txt --name molmo2-stts
  stts serve --checkpoint runs/mine --media-root /data/videos --media-host media.example.org
"""
KEYS = "STTS_API_KEYS"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="stts serve",
        description="Serve a model over HTTP, as OpenAI's clients speak, with a page at '/'.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_options(parser)
    add_ratio_option(parser)
    add_auto_option(parser)
    _add_server_options(parser)
    _add_engine_options(parser)
    _add_media_options(parser)
    return parser.parse_args(arguments)


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="to listen at (default: this machine)")
    group.add_argument("--port", type=int, default=8000, help="(default %(default)s)")
    group.add_argument("--name", help="of the model for clients (default: of its folder)")
    group.add_argument(
        "--api-keys",
        type=local_path,
        metavar="FILE",
        help=f"keys that clients need, one a line; or {KEYS}, separated by commas",
    )
    group.add_argument("--open", action="store_true", help="serve other machines without API keys")
    group.add_argument(
        "--host-name",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further names that the server is reached by, without API keys",
    )
    group.add_argument(
        "--drain", type=float, default=30.0, metavar="SECONDS", help="for answers after SIGTERM"
    )


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument("--slots", type=int, default=8, help="answers at once (default 8)")
    group.add_argument("--queue", type=int, default=64, help="that may wait (default 64)")
    group.add_argument("--max-new-tokens", type=int, default=256, help="of an answer (default 256)")
    group.add_argument("--question-tokens", type=int, default=1024, help="of text (default 1024)")
    group.add_argument(
        "--prefix-tokens",
        type=int,
        help="of media after the drop (default: a video of all frames of which nothing is dropped)",
    )
    group.add_argument("--cache", type=int, default=1024, metavar="MIB", help="for read videos")
    group.add_argument(
        "--warm-ratios",
        type=float,
        nargs="*",
        default=[0.0],
        metavar="RATIO",
        help="that are compiled for before the first request, beside the model's own (default 0)",
    )
    group.add_argument(
        "--warm-frames",
        type=int,
        nargs="+",
        metavar="COUNT",
        help="of videos that are compiled for (default: all frames)",
    )


def _add_media_options(parser: argparse.ArgumentParser) -> None:
    group, own = parser.add_argument_group("pictures and videos of clients"), Limits()
    group.add_argument(
        "--media-root", type=local_path, metavar="DIR", help="whose files clients may name"
    )
    group.add_argument(
        "--media-host",
        nargs="+",
        default=[],
        metavar="HOST",
        help="to fetch from: media.example.org, or with a port",
    )
    group.add_argument("--max-mib", type=int, default=own.bytes // MIB, help="of a file")
    group.add_argument("--max-pixels", type=int, default=own.pixels, help="of a frame")
    group.add_argument("--max-seconds", type=float, default=own.seconds, help="of a video")
    group.add_argument("--max-frames", type=int, default=own.frames, help="that are looked at")
    group.add_argument("--request-seconds", type=float, default=own.request_seconds)
    group.add_argument("--decode-seconds", type=float, default=own.decode_seconds)
    group.add_argument("--decode-mib", type=int, default=own.decode_bytes // MIB)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is told to end; returns the exit code."""
    options = parse(arguments)
    return run("serve", lambda: serve(options))


def serve(options: argparse.Namespace) -> None:
    """Loads the model, and serves it.

    Raises:
      ConfigError: if other machines are to be served without keys, or a library is missing.
    """
    require_libraries()
    from stts_jax.inference.engine.engine import Engine
    from stts_jax.serving.app import Readiness, make_app
    from stts_jax.serving.decoding_pool import DecodingPool
    from stts_jax.serving.fetching import MediaHosts
    from stts_jax.serving.media_address import MediaAddresses
    from stts_jax.serving.media_files import MediaFiles
    from stts_jax.serving.service import Service
    from stts_jax.serving.warm_up import compile_all

    limits, access = limits_of(options), access_of(options)
    checkpoint, config = open_config(options)
    frames = min(scaled_frames(config.data, options.frames), limits.frames)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, max_frames=frames, cache_frames=False)
    )
    settings = engine_settings(options, config)
    require_fits(checkpoint, config, settings, options.weights)
    model = open_model(checkpoint, config, options.weights)
    name = options.name or Path(str(options.checkpoint)).resolve().name
    files = MediaFiles(limits.stored_bytes)
    hosts = MediaHosts(frozenset(host.lower() for host in options.media_host))
    addresses = MediaAddresses(files, limits, options.media_root, hosts)
    with Engine(model, end_token_of(config), settings) as engine:
        automatic = automatic_config(config, checkpoint.folder)
        pool = DecodingPool(limits)
        service = Service(name, config, engine, limits, addresses, pool, automatic)
        warm = partial(
            compile_all, service, engine, options.warm_frames or [frames], options.warm_ratios
        )
        app = make_app(service, access, Readiness(), options.drain, warm)
        listen(app, options, limits)


def automatic_config(config: Config, folder: Path) -> Config | None:
    """Returns the configuration with the threshold of a checkpoint; None if it isn't calibrated."""
    try:
        found = with_threshold(config, folder)
    except (CheckpointError, ConfigError):
        return None
    return found if found.model.prune.threshold else None


def require_fits(
    checkpoint: OpenedCheckpoint, config: Config, settings: EngineSettings, weights: Weights
) -> None:
    """Prints the memory that the engine takes, before the model is loaded.

    Raises:
      ConfigError: if there isn't so much.
    """
    from stts_jax.inference.engine.memory import require_engine_memory
    from stts_jax.serving.warm_up import grey_video

    shapes = to_answer(abstract_model(config.model), weights, checkpoint.dtypes)
    budget = grey_video(config, config.data.max_frames).row(config).budget
    line = require_engine_memory(shapes, config, make_mesh(), settings, [budget])
    to_stderr(f"memory: {line}")


def listen(app: Any, options: argparse.Namespace, limits: Limits) -> None:
    """Answers requests until SIGTERM or SIGINT."""
    import uvicorn

    from stts_jax.serving.connections import protocol_with

    log_requests()
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        http=protocol_with(limits.header_seconds),
        ws="none",
        loop="asyncio",  # uvloop forks where this one spawns, which JAX's threads don't take
        access_log=False,  # its own has the query, ours has no contents
        server_header=False,
        log_level="warning",
        limit_concurrency=1024,
        timeout_graceful_shutdown=max(1, round(options.drain)),
    )


def log_requests() -> None:
    """Has a line of each request written to the standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("stts.access")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def require_libraries() -> None:
    """Raises a `ConfigError` if the extra is not installed."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"serving needs {error.name}; install it with pip install 'stts-jax[serve]'"
        ) from error


def limits_of(options: argparse.Namespace) -> Limits:
    """Returns the limits that were asked for."""
    return Limits(
        bytes=options.max_mib * MIB,
        pixels=options.max_pixels,
        seconds=options.max_seconds,
        frames=options.max_frames,
        request_seconds=options.request_seconds,
        decode_seconds=options.decode_seconds,
        decode_bytes=options.decode_mib * MIB,
    )


def access_of(options: argparse.Namespace) -> Access:
    """Returns who may ask.

    Raises:
      ConfigError: if that would be all the world, and nobody said so.
    """
    from stts_jax.serving.access import Access, is_loopback, loopback_names

    keys = [key.strip() for key in os.environ.get(KEYS, "").split(",")]
    if options.api_keys is not None:
        keys += read_keys(options.api_keys)
    keys = [key for key in keys if key]
    alone = is_loopback(options.host)
    if not keys and not alone and not options.open:
        raise ConfigError(
            f"--host {options.host} serves other machines, and there are no API keys; name a file "
            "of them with --api-keys, or add --open to serve whoever asks"
        )
    names = (*loopback_names(), *options.host_name) if alone and not keys else None
    return Access(keys, names)


def read_keys(path: Path) -> list[str]:
    """Returns the keys of a file, one a line.

    Raises:
      ConfigError: if it can't be read, or has none.
    """
    try:
        keys = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API keys of '{path}' can't be read: {error}") from error
    if not keys:
        raise ConfigError(f"'{path}' has no API keys; write one a line")
    return keys


def engine_settings(options: argparse.Namespace, config: Config) -> EngineSettings:
    """Returns the settings of the engine that were asked for."""
    from stts_jax.inference.engine.settings import EngineSettings
    from stts_jax.serving.warm_up import most_prefix_tokens

    frames = config.data.max_frames
    return EngineSettings(
        slots=options.slots,
        prefix_tokens=options.prefix_tokens or most_prefix_tokens(config, frames),
        question_tokens=options.question_tokens,
        max_new_tokens=options.max_new_tokens,
        cache_bytes=options.cache * MIB,
        queue=options.queue,
    )


def end_token_of(config: Config) -> int:
    """Returns the id of the token that ends an answer."""
    from stts_jax.data.chains import chain_of

    return chain_of(config).tokenizer.eos_id


if __name__ == "__main__":
    sys.exit(main())
