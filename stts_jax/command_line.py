"""Common parts of the commands: exit codes, cached compilations, options."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from convert.opening import open_any
from stts_jax.api.errors import USER_ERRORS
from stts_jax.arguments import frames_scale, path_or_address, percentage, weights_type
from stts_jax.config import Config, ConfigError, override
from stts_jax.evaluation.asked import Asked
from stts_jax.host_memory import keep_freed_memory
from stts_jax.model.video_language_model import VideoLanguageModel, Weights
from stts_jax.model.vision import VisionEncoder
from stts_jax.parallel.compile_cache import keep_compiled_code
from stts_jax.quoting import shorten, shorten_words
from stts_jax.terminal import doing, end_quietly, is_stdout_closed, to_stderr
from stts_jax.train_ratios import at_ratio
from stts_jax.training.checkpointing.load import load_to_answer, load_to_score
from stts_jax.training.checkpointing.opened import OpenedCheckpoint
from stts_jax.training.checkpointing.thresholds import calibrated_folder, with_threshold
from stts_jax.training.distributed import is_lost_process, report_lost_process, several_processes


def run(name: str, command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code.

    Returns:
      0 when done, 2 for an error that the user can fix (one sentence is printed), 130 if
      interrupted, 141 if the reader of the standard output is gone.
    """
    keep_freed_memory()
    try:
        keep_compiled_code()
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_stdout_closed():
            raise
        return end_quietly()
    except USER_ERRORS as error:
        if is_lost_process(error):
            return report_lost_process(name)
        print(f"{name}: {shorten_words(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        path = shorten(error.filename)
        print(f"{name}: the path {path} is too long for this system; use another", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def run_on_hosts(name: str, command: Callable[[], None]) -> int:
    """Runs a command on several hosts; the exit code is for `leave`.

    Returns:
      the exit code of `run`, `LOST_PROCESS` if another process of the run is gone, and 1 for a
      defect, whose traceback is printed.
    """
    try:
        return run(name, command)
    except Exception as error:
        if is_lost_process(error):
            return report_lost_process(name)
        traceback.print_exc()
        return 1


def leave(code: int, at_once: bool = False) -> int:
    """Ends the program where returning would wait forever; else returns the exit code.

    Args:
      code: the exit code. With JAX, a failed process waits for the others, and they for it.
      at_once: whether waiting threads are left.
    """
    if at_once or (code and several_processes()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def end_program(code: int) -> NoReturn:
    """Exits; at once after a failure, as threads of a failed save may wait for minutes."""
    sys.exit(leave(code, at_once=code != 0))


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--set`, for commands with a configuration."""
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change settings, for example model.prune.topk=0.3 (all are in docs/settings.md)",
    )


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, `--no-cache`, `--set`, `--frames`, `--weights`, for a trained model."""
    parser.add_argument(
        "--checkpoint",
        type=path_or_address,
        required=True,
        help="folder of a training run, of one step, or of a PyTorch checkpoint",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="read a PyTorch checkpoint where it is, without a converted copy in the cache",
    )
    add_adapter_option(parser, "--checkpoint")
    add_set_option(parser)
    parser.add_argument(
        "--frames",
        type=frames_scale,
        default=1.0,
        metavar="2x",
        help="take that many times the frames the model was trained on (default 1x)",
    )
    parser.add_argument(
        "--weights",
        type=weights_type,
        default="compute",
        metavar="TYPE",
        help="int8: hold the weights of ViT and LLM in half of bfloat16's bytes "
        "(default compute: in the type of model.compute_dtype)",
    )


def add_ratio_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--k`, for commands at one ratio."""
    parser.add_argument(
        "--k",
        type=percentage,
        metavar="PERCENT",
        help="percentage of a video's tokens to drop, also one that the model was not trained at "
        "(default: as trained)",
    )


def add_auto_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--auto`, for commands that answer or show."""
    parser.add_argument(
        "--auto",
        action="store_true",
        help="drop --k %% of all videos' tokens on average, of each what it can spare "
        "(`stts calibrate` once before)",
    )


def add_adapter_option(parser: argparse.ArgumentParser, base: str) -> None:
    """Adds `--adapter`; `base` is the option that names the model it belongs to."""
    parser.add_argument(
        "--adapter",
        type=path_or_address,
        metavar="DIR",
        help=f"adapters of the model in {base}: folder of a run with train.lora or train.freeze, "
        "or of PEFT; such a run's folder alone will do while its base is where it was",
    )


def add_media_options(parser: argparse.ArgumentParser) -> None:
    """Adds the video, `--images`, `--clip` and `--subtitle`, as a line of own data may have."""
    parser.add_argument("video", type=path_or_address, nargs="?", help="any file that FFmpeg reads")
    parser.add_argument(
        "--images",
        type=path_or_address,
        nargs="+",
        default=[],
        metavar="FILE",
        help="instead of a video",
    )
    parser.add_argument(
        "--clip",
        type=float,
        nargs=2,
        metavar=("START", "END"),
        help="show only these seconds of the video",
    )
    parser.add_argument(
        "--subtitle", metavar="TEXT", help="shown with the video; what 'subtitle' of a line may be"
    )


def asked_of(options: argparse.Namespace, question: str = "", choices: Sequence[str] = ()) -> Asked:
    """Returns the question and media of `add_media_options`.

    Raises:
      ConfigError: if there is nothing to look at, or a video and images.
      OwnDataError: if a line of own data couldn't say so.
      VideoError, ImageError: if there is no such file.
    """
    if options.video is None and not options.images:
        raise ConfigError("there is no video; give the path of one, or pictures with --images")
    if options.video is not None and options.images:
        raise ConfigError(
            f"there is the video '{options.video}' and --images too; leave one of them out"
        )
    asked = Asked(
        options.video,
        question,
        tuple(choices),
        tuple(options.images),
        None if options.clip is None else tuple(options.clip),
        options.subtitle,
    )
    asked.require_valid()
    asked.require_files()
    return asked


def open_config(options: argparse.Namespace) -> tuple[OpenedCheckpoint, Config]:
    """Returns the checkpoint of `add_checkpoint_options`, and its configuration with `--set`.

    With `--k` of `add_ratio_option` it is at that ratio, with `--auto` on average. A folder of
    another form is converted for it, or read in place with `--no-cache`.

    Raises:
      ConfigError: if a model that drops nothing is to drop tokens, or for `--adapter` beside
        `--no-cache`.
      CheckpointError: with `--auto`, if there are no thresholds, or nowhere to keep them.
    """
    opened = open_any(
        options.checkpoint, options.adapter, copy=not options.no_cache, notice=to_stderr
    )
    config = override(opened.config, options.overrides)
    if options.k is not None:
        config = at_ratio(config, options.k / 100)
    if getattr(options, "auto", False):
        config = with_threshold(config, calibrated_folder(opened))
    return opened, config


def open_model(
    checkpoint: OpenedCheckpoint, config: Config, weights: Weights
) -> VideoLanguageModel:
    """Loads a model to answer with."""
    with doing(f"loading the model of '{checkpoint.named}'"):
        return load_to_answer(checkpoint, config, weights=weights)[0]


def open_encoder(checkpoint: OpenedCheckpoint, config: Config, weights: Weights) -> VisionEncoder:
    """Loads ViT and scorer of a model."""
    with doing(f"loading ViT and scorer of '{checkpoint.named}'"):
        return load_to_score(checkpoint, config, weights=weights)[0]
