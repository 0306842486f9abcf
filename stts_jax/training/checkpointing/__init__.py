"""Writes the checkpoints of a run, reads them, and resumes a run from them.

- `run_folder`: the files of a run's folder, and its newest checkpoint.
- `save`, `restore`: whole states of a run, with its position in the data.
- `load`: models, to evaluate, to ask, to fine-tune.
- `resume`: resumes a run or begins a new one; its docstring numbers the steps. `resumed_data`,
  `settings_changes` and `run_tokenizer` are parts of that.
- `checkpoint_errors`: the one sentence that a user gets, and the difference between damaged files
  and files that can't be read now.
"""
