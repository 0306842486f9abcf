"""A disk that is full."""

import errno


def no_room_in_files(monkeypatch):
    """A disk with room for the size of a file, and none for its content."""

    def fallocate(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", fallocate)
