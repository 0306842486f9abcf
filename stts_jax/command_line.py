"""What the commands share: errors a user can mend, compiled code that is kept, common options."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax

from convert.cache import local_checkpoint
from convert.stored import ConvertError
from stts_jax.broken_pipe import end_quietly, is_stdout_closed
from stts_jax.config import Config, ConfigError, override
from stts_jax.data.bad_examples import READING_ERRORS, BadExamplesError
from stts_jax.data.rows import BudgetError
from stts_jax.data.synthetic import SyntheticError
from stts_jax.data.tokenizer import TokenizerError
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.results import ResultError
from stts_jax.evaluation.scoring.judge import JudgeError
from stts_jax.evaluation.scoring.score import ScoringError
from stts_jax.evaluation.suites import SuiteError
from stts_jax.host_memory import keep_freed_memory
from stts_jax.local_path import local_path
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.output_lock import LockedError
from stts_jax.progress import doing, to_stderr
from stts_jax.quoting import shorten, shorten_words
from stts_jax.training.checkpoint import CheckpointError, config_of, load_to_answer
from stts_jax.training.distributed import several_processes
from stts_jax.training.non_finite import TrainingError
from stts_jax.training.partners import is_lost_partner, tell_lost_partner

# Times the frames that a model was trained on.
MOST_FRAMES_SCALE = 1024
# What a user can mend; all else is a defect and shows its traceback.
USER_ERRORS = (
    BadExamplesError,
    BudgetError,
    CheckpointError,
    ConfigError,
    ConvertError,
    JudgeError,
    LockedError,
    *READING_ERRORS,
    ResultError,
    ScoringError,
    SuiteError,
    SyntheticError,
    TokenizerError,
    TrainingError,
)


def run(name: str, command: Callable[[], None]) -> int:
    """Run a command; the exit code.

    Returns:
      0 when done, 2 for what the user can mend (one sentence is printed), 130 if interrupted, 141
      if nobody reads what is printed any more.
    """
    keep_compiled_code()
    keep_freed_memory()
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_stdout_closed():
            raise
        return end_quietly()
    except USER_ERRORS as error:
        if is_lost_partner(error):
            return tell_lost_partner(name)
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
    """`run` a command that several hosts may share; `leave` with the exit code.

    Returns:
      That of `run`, `LOST_PARTNER` if another process of the run is gone, and 1 for a defect,
      whose traceback is printed.
    """
    try:
        return run(name, command)
    except Exception as error:
        if is_lost_partner(error):
            return tell_lost_partner(name)
        traceback.print_exc()
        return 1


def leave(code: int, at_once: bool = False) -> int:
    """End the program where returning from it would wait for ever; else the exit code.

    Args:
      code: the exit code. JAX would not let one of several processes that failed end: it would
        wait for the others, and they for it.
      at_once: whether threads are left that wait for something.
    """
    if at_once or (code and several_processes()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def end_program(code: int) -> NoReturn:
    """Exit; at once where something failed, as threads of a failed save may wait for minutes."""
    sys.exit(leave(code, at_once=code != 0))


def keep_compiled_code() -> None:
    """Make the next run start quickly; JAX_COMPILATION_CACHE_DIR chooses another folder."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "stts_jax" / "compiled"))


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """`--set`, which every command with a configuration takes."""
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
    """`--checkpoint`, `--set` and `--frames`, which all commands on a trained model take."""
    parser.add_argument(
        "--checkpoint",
        type=local_path,
        required=True,
        help="folder of a training run, of one step, or of a PyTorch checkpoint",
    )
    add_set_option(parser)
    parser.add_argument(
        "--frames",
        type=frames_scale,
        default=1.0,
        metavar="2x",
        help="take that many times the frames the model was trained on (default 1x)",
    )


def add_media_options(parser: argparse.ArgumentParser) -> None:
    """The video, `--images`, `--clip` and `--subtitle`: what a line of own data may show."""
    parser.add_argument("video", type=Path, nargs="?", help="any file that FFmpeg reads")
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[], metavar="FILE", help="instead of a video"
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
    """Returns what `add_media_options` and a question come to.

    Raises:
      ConfigError: if there is nothing to look at, or a video and images.
      OwnDataError: if a line of own data couldn't say so.
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
    return asked


def open_checkpoint(options: argparse.Namespace) -> tuple[VideoLanguageModel, Config]:
    """The model that `add_checkpoint_options` names, and its configuration with `--set`."""
    checkpoint = local_checkpoint(options.checkpoint, to_stderr)
    config = override(config_of(checkpoint), options.overrides)
    with doing(f"loading the model of '{checkpoint}'"):
        return load_to_answer(checkpoint, config)


def at_least_one(text: str) -> int:
    """A count of things of which there must be one."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a count; write a whole number from 1"
        )
    return count


def percentage(text: str) -> float:
    """Returns a share in per cent: 0, or from 1 on, so that `0.5` is not taken for a half."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value < 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is less than one per cent; write {100 * value:g} for {100 * value:g} %"
        )
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a percentage; write 0 or from 1 to 100")
    return value


def frames_scale(text: str) -> float:
    """`2x` or `2` -> 2.0."""
    try:
        scale = float(text.removesuffix("x"))
    except ValueError:
        scale = 0.0
    if not 0 < scale <= MOST_FRAMES_SCALE:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a factor from 0 to {MOST_FRAMES_SCALE}; write 2x, for example"
        )
    return scale
