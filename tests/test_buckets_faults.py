"""A bucket that refuses, drops, cuts off or doesn't answer costs time, and not the run."""

from types import SimpleNamespace

import aiohttp
import gcsfs.retry
import pytest
from bucket_faults import CUT_OFF, HANG, RESET, UNAVAILABLE, FaultyProxy

from stts_jax.buckets import bucket_path, file_system, lock_file
from stts_jax.buckets.errors import BucketError, reason_without_secrets
from stts_jax.buckets.lock_file import BucketLockFile


@pytest.fixture(scope="module")
def proxy(bucket_server):
    proxy = FaultyProxy(bucket_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def faulty(proxy, monkeypatch):
    """This process goes to buckets through the proxy, and doesn't pause before it tries again."""
    silence = aiohttp.ClientTimeout(total=None, sock_read=0.3)
    files = file_system.PatientFileSystem(
        endpoint_url=proxy.url, token="anon", requests_timeout=silence
    )

    async def at_once(seconds):
        return None

    for module in (gcsfs.retry, file_system):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=at_once))
    for module in (bucket_path, lock_file):
        monkeypatch.setattr(module, "file_system", lambda: files)
    yield proxy.faults
    proxy.faults.fault_of, proxy.faults.latency = lambda *_: None, 0.0
    proxy.faults.done.clear()


def first(fault, count=1, only=""):
    """The fault of the first requests of a method, all by default."""
    left = [count]

    def fault_of(number, method, path):
        if left[0] and only in method:
            left[0] -= 1
            return fault
        return None

    return fault_of


@pytest.mark.parametrize("fault", [UNAVAILABLE, RESET, CUT_OFF, HANG])
def test_a_request_is_made_again(fault, faulty, bucket):
    (bucket / "a.txt").write_bytes(b"content" * 1000)
    for work, expected in (
        (lambda: (bucket / "a.txt").read_bytes(), b"content" * 1000),
        (lambda: (bucket / "a.txt").read_range(7, 14), b"content"),
        (lambda: (bucket / "a.txt").stat().st_size, 7000),
        (lambda: [path.name for path in bucket.iterdir() if path.name == "a.txt"], ["a.txt"]),
        (lambda: (bucket / "b.txt").write_bytes(b"other"), 5),
    ):
        faulty.done.clear()
        faulty.fault_of = first(fault)
        assert work() == expected and faulty.done[fault] == 1
    assert (bucket / "b.txt").read_bytes() == b"other"


def test_a_bucket_may_refuse_for_longer_than_gcsfs_tries(faulty, bucket):
    (bucket / "a.txt").write_bytes(b"content")
    faulty.fault_of = first(UNAVAILABLE, 20)
    assert (bucket / "a.txt").read_bytes() == b"content" and faulty.done[UNAVAILABLE] == 20


def test_a_bucket_that_never_answers_is_named_in_the_end(faulty, bucket, monkeypatch):
    monkeypatch.setattr(file_system, "PATIENCE_SECONDS", 0.0)
    faulty.fault_of = lambda *_: UNAVAILABLE
    with pytest.raises(BucketError) as raised:
        (bucket / "a.txt").read_bytes()
    message = (
        r"cannot be read: .*503; check the name of the bucket and the network, and start again"
    )
    assert raised.match(rf"'{bucket}/a.txt' {message}")


def test_a_lock_whose_answer_is_lost_is_held(faulty, bucket):
    lock = BucketLockFile(bucket / "lost/lock")
    faulty.fault_of = first(CUT_OFF, only="POST")
    assert lock.create(b"mine") and faulty.done[CUT_OFF] == 1
    assert not BucketLockFile(bucket / "lost/lock").create(b"another's")
    assert lock.read() == b"mine"


def test_no_message_holds_what_lets_others_in():
    error = OSError(
        "403, https://storage.googleapis.com/b/o?X-Goog-Signature=5ecret refused Bearer 5ecret\n"
    )
    said = str(BucketError("gs://b/o", "read", reason_without_secrets(error)))
    assert "5ecret" not in said and "https://storage.googleapis.com/b/o refused" in said
    assert "log in with `gcloud auth application-default login`" in said
