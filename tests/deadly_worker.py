"""A function that may kill the process that runs it; apart, so that processes start quickly."""

import os
import signal


def length_or_death(text):
    """The length of a text, unless it is deadly."""
    if text == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return len(text)
