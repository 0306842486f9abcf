"""The errors that a user can fix."""

from __future__ import annotations

from convert.tensor_reader import ConvertError
from stts_jax.buckets.errors import BucketError
from stts_jax.config import ConfigError
from stts_jax.data.bad_examples import READING_ERRORS, BadExamplesError
from stts_jax.data.packing.rows import BudgetError
from stts_jax.data.synthetic import SyntheticError
from stts_jax.data.text.tokenizer import TokenizerError
from stts_jax.evaluation.results import ResultError
from stts_jax.evaluation.scoring.judge import JudgeError
from stts_jax.evaluation.scoring.score import ScoringError
from stts_jax.evaluation.suites import SuiteError
from stts_jax.output_lock import LockedError
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.nan_check import TrainingError


class UsageError(ValueError):
    """An argument that can't be used; the message is one sentence with the remedy."""


# All others are defects.
USER_ERRORS = (
    BadExamplesError,
    BucketError,
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
    UsageError,
)
