"""Random changes to the files and settings that a user may bring.

Each change must end in success or in one of the errors that a user can mend: no other exception,
no wait, no gigabytes, nothing written elsewhere. `registry` holds the targets, each made by a
module of this folder; `tests/test_fuzz.py` runs some hundreds of changes, and for longer there is

    cd tests && PYTHONPATH=.. python -m fuzz --seconds 600 --seed 1
"""
