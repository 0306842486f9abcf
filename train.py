"""Train a video language model: `python train.py --config tiny --output runs/tiny`."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

import jax

from convert.opening import with_adapter
from stts_jax.arguments import Parser, path_or_address
from stts_jax.command_line import (
    add_adapter_option,
    add_set_option,
    end_program,
    leave,
    run_on_hosts,
)
from stts_jax.config import ConfigError, config_names, load_config
from stts_jax.data.synthetic import DEFAULT_FOLDER
from stts_jax.evaluation.while_training import evaluation
from stts_jax.parallel.processes import first_then_others, notice
from stts_jax.training.checkpointing.run_tokenizer import with_checkpoint_tokenizer
from stts_jax.training.distributed import join_processes, leave_processes
from stts_jax.training.library_output import keep_native_log, native_log_of
from stts_jax.training.loop import RunResult
from stts_jax.training.run import train

EXAMPLES = """\
examples:
  python train.py --config tiny --output runs/tiny
  python train.py --config tiny --output runs/short --set train.steps=100 model.prune.topk=0.3
  python train.py --config my_setup.toml --output runs/mine --init-from runs/molmo2_4b

Run the same command again to go on after an interruption. OUTPUT gets config.json, metrics.jsonl,
loss.png and checkpoints/. Setups are the files in configs/; a .toml or .json file will do as well.
On several hosts, start this command once on each: docs/running.md has the launch lines.
SIGTERM and Ctrl-C save and leave, with exit code 143 and 130; what you can fix ends with 2, and a
process of a run that loses another one with 75.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        description="Train a video language model that drops video tokens inside its ViT.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default="tiny", help=f"a file, or one of {', '.join(config_names())}"
    )
    parser.add_argument("--output", type=path_or_address, required=True, help="folder of the run")
    add_set_option(parser)
    parser.add_argument(
        "--init-from",
        type=path_or_address,
        metavar="DIR",
        help="start from the parameters of another run, or of a PyTorch checkpoint",
    )
    add_adapter_option(parser, "--init-from")
    parser.add_argument(
        "--data-dir", type=Path, default=DEFAULT_FOLDER, help="of the procedural set (%(default)s)"
    )
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="start a new run; DELETES the checkpoints in OUTPUT",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code."""
    options = parse(arguments)
    ended: list[RunResult] = []

    def command() -> None:
        config = load_config(options.config, options.overrides)
        if join_processes() > 1:
            keep_native_log("train.py", native_log_of(options.output, jax.process_index()))
        start, base = options.init_from, None
        if start is None and options.adapter is not None:
            raise ConfigError("--adapter is given without its model; name that with --init-from")
        if start is not None:
            start, base = first_then_others(
                lambda: with_adapter(options.init_from, options.adapter)
            )
        config = with_checkpoint_tokenizer(
            config, options.output, init_from=start, resume=not options.no_resume, notice=notice
        )
        wanted = config.train.evaluate_every > 0
        evaluate = evaluation(config, options.data_dir) if wanted else None
        result = train(
            config,
            options.output,
            init_from=start,
            base=base,
            resume=not options.no_resume,
            evaluate=evaluate,
            data_dir=options.data_dir,
        )
        ended.append(result)
        leave_processes()
        if not result.stopped:
            notice(f"done at step {result.step}; everything is in '{options.output}'")

    code = run_on_hosts("train.py", command)
    if ended and ended[0].stopped_by is not None:
        # As if the signal had ended it, so that a job is started again.
        code = 128 + signal.Signals[ended[0].stopped_by]
    return leave(code, at_once=any(result.left_running for result in ended))


if __name__ == "__main__":
    end_program(main())
