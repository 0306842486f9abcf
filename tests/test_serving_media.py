"""What clients send is decoded in a process that can be killed, from where it may come from."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import http.server
import os
import resource
import signal
import sys
import threading
from contextlib import contextmanager

import numpy as np
import PIL.Image
import pytest
from data_video_cases import write

from stts_jax.serving.decoding_messages import Job
from stts_jax.serving.decoding_pool import DecodingPool
from stts_jax.serving.errors import ServingError
from stts_jax.serving.fetching import MediaHosts
from stts_jax.serving.limits import Limits
from stts_jax.serving.media_address import MediaAddresses
from stts_jax.serving.media_files import MediaFiles

LIMITS = Limits(bytes=100_000, decode_seconds=20, fetch_seconds=2, decoders=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write(path, np.linspace(20, 220, 40))
    return path


@pytest.fixture
def files():
    files = MediaFiles(10**6)
    yield files
    files.close()


def job(path, kind="video", **changes):
    wanted = Job(kind, str(path), 6, 2.0, 36, 10**6, 60.0)
    return dataclasses.replace(wanted, **changes)


def decoded(*jobs, limits=LIMITS, command=None):
    """What a pool of one process says to each job: what it decoded, or the error."""

    async def run():
        pool = DecodingPool(limits, command)
        try:
            return [await one(pool, each) for each in jobs]
        finally:
            await pool.close()

    async def one(pool, each):
        try:
            return await pool.decode(each)
        except ServingError as error:
            return error

    return asyncio.run(run())


def content_of(address, files, limits=LIMITS, **options):
    addresses = MediaAddresses(files, limits, **options)
    return asyncio.run(addresses.get(address)).path.read_bytes()


def refusal_of(address, files, limits=LIMITS, **options):
    with pytest.raises(ServingError) as refused:
        content_of(address, files, limits, **options)
    return refused.value


# ------------------------------------------------------------------------------------- decoding


def test_videos_and_pictures_are_decoded(clip, tmp_path):
    PIL.Image.new("RGB", (400, 200), "red").save(tmp_path / "red.png")
    video, picture = decoded(job(clip), job(tmp_path / "red.png", "image"))
    assert video.frames.shape == (6, 36, 36, 3) and video.times[0] == 0
    assert np.all(np.diff(video.frames.mean((1, 2, 3))) > 10)  # brighter and brighter
    assert (picture.frames == [255, 0, 0]).all() and picture.frames.shape == (1, 200, 400, 3)
    assert picture.thumbnails.shape == (1, 96, 192, 3)


def test_what_is_too_large_is_refused_by_its_header(clip, tmp_path):
    PIL.Image.new("RGB", (400, 200), "red").save(tmp_path / "red.png")
    said = decoded(
        job(clip, pixels=100),
        job(clip, seconds=2.0),
        job(tmp_path / "red.png", "image", pixels=100),
    )
    assert [error.status for error in said] == [413] * 3
    assert "scale it down" in said[0].message and "cut it" in said[1].message
    assert "400 x 200" in said[2].message


def test_a_picture_that_other_programs_would_read_is_not_opened(tmp_path):
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "a.eps")
    (error,) = decoded(job(tmp_path / "a.eps", "image", pixels=1))
    assert (error.code, "jpg or png" in error.message) == ("media_unreadable", True)


def test_errors_name_no_path_and_no_address(clip, tmp_path):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(clip.read_bytes()[:900])
    text = tmp_path / "text.mp4"
    text.write_bytes(b"no video" * 99)
    said = decoded(
        job(damaged), job(text), job(text, "image"), job(tmp_path / "missing.mp4"), job("/etc")
    )
    for error in said:
        assert error.status == 400 and error.message
        assert str(tmp_path) not in error.message and "/etc" not in error.message
        assert "0x" not in error.message and "<" not in error.message


def test_the_decoding_process_may_take_little_memory(tmp_path):
    PIL.Image.new("RGB", (4000, 4000)).save(tmp_path / "large.png")
    wanted = job(tmp_path / "large.png", "image", pixels=50_000_000)
    small = dataclasses.replace(LIMITS, decode_bytes=30_000_000)
    refused, again = decoded(wanted, wanted, limits=small)
    assert refused.code == again.code == "media_memory"
    assert "more memory" in refused.message


def hanging(text):
    """A process that does as told instead of decoding."""
    return (sys.executable, "-c", text)


def test_a_decoder_that_hangs_is_killed_and_another_one_goes_on(clip):
    soon = dataclasses.replace(LIMITS, decode_seconds=0.3)
    command = hanging("import time; time.sleep(60)")
    said = decoded(job(clip), job(clip), limits=soon, command=command)
    assert [error.code for error in said] == ["decoding_timed_out"] * 2


def test_a_killed_decoder_is_one_error(clip):
    async def run():
        pool = DecodingPool(LIMITS)
        await pool.decode(job(clip))
        os.kill(pool._idle[0]._process.pid, signal.SIGKILL)
        with pytest.raises(ServingError) as refused:
            await pool.decode(job(clip))
        again = await pool.decode(job(clip))
        await pool.close()
        return refused.value, again, pool.killed

    refused, again, killed = asyncio.run(run())
    assert (refused.code, killed) == ("decoding_failed", 1)
    assert len(again.frames) == 6


@pytest.mark.parametrize(
    "reply",
    (
        b"\\xff\\xff\\xff\\xff",
        b"\\0\\0\\0\\2[]",
        b'\\0\\0\\0\\x02{}',
        b'\\0\\0\\0\\x66{"frames": [9999, 36, 36, 3], "thumbnails": [9999, 1, 1, 3], "times": [],'
        b' "target_fps": null, "size": [1, 1]}',
    ),
)  # fmt: skip
def test_a_decoder_that_was_taken_over_is_not_believed(clip, reply):
    command = hanging(
        f"import sys; sys.stdin.buffer.read(4); sys.stdout.buffer.write({reply!r}.decode("
        "'unicode_escape').encode('latin1')); sys.stdout.flush(); sys.stdin.buffer.read()"
    )
    limits = dataclasses.replace(LIMITS, decode_seconds=2.0)
    (refused,) = decoded(job(clip), limits=limits, command=command)
    assert refused.code == "decoding_failed"


def test_only_so_many_videos_wait(clip):
    async def run():
        limits = dataclasses.replace(LIMITS, waiting=2, decode_seconds=0.3)
        pool = DecodingPool(limits, hanging("import time; time.sleep(60)"))
        each = [asyncio.create_task(pool.decode(job(clip))) for _ in range(3)]
        said = await asyncio.gather(*each, return_exceptions=True)
        await pool.close()
        return said

    said = asyncio.run(run())
    assert [error.status for error in said] == [400, 400, 429]
    assert said[2].headers["Retry-After"]


# ------------------------------------------------------------------------------------ addresses


def test_data_addresses_hold_their_content(files):
    address = "data:video/mp4;base64," + base64.b64encode(b"abc").decode()
    assert content_of(address, files) == b"abc"


@pytest.mark.parametrize("address", ("data:video/mp4,abc", "data:;base64,a!", "ftp://a/b", "a.mp4"))
def test_other_addresses_are_refused(files, address):
    assert refusal_of(address, files).status == 400


def test_a_data_address_that_is_too_large_is_not_decoded(files):
    assert refusal_of("data:;base64," + "!" * 200_000, files).status == 413


def test_an_upload_is_known_by_its_id_until_others_need_its_room():
    files = MediaFiles(250)
    first, second = files.add(b"a" * 100), files.add(b"b" * 100)
    assert content_of(f"upload:{first.digest}", files) == b"a" * 100
    third = files.add(b"c" * 100)  # the second was used least recently
    assert refusal_of(f"upload:{second.digest}", files).status == 404
    with files.held(first), files.held(third):
        files.add(b"d" * 100)
        assert first.path.exists() and third.path.exists()
    files.close()


def test_the_folder_of_a_server_that_never_began_is_removed():
    folder = MediaFiles(100).add(b"a").path.parent
    assert not folder.exists()


def test_files_are_served_only_below_the_named_folder(files, clip, tmp_path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a b.mp4").write_bytes(b"inside")
    (root / "link.mp4").symlink_to(root / "in" / "a b.mp4")
    (root / "out.mp4").symlink_to(clip)
    os.mkfifo(root / "pipe.mp4")
    assert content_of(f"file://{root}/in/a%20b.mp4", files, root=root) == b"inside"
    assert content_of(f"file://{root}/link.mp4", files, root=root) == b"inside"
    assert refusal_of(f"file://{clip}", files).status == 403
    outside = {
        refusal_of(address, files, root=root).message
        for address in (
            f"file://{root}/out.mp4",
            f"file://{root}/../root2/a.mp4",
            f"file://{root}/%2e%2e/%2e%2e/etc/passwd",
            f"file://{root}/pipe.mp4",
            f"file://{root}/none.mp4",
            f"file://{root}",
            f"file://host{root}/link.mp4",
            "file:///proc/self/environ",
            "file:///a%00b",
            "file:a.mp4",
        )
    }
    assert len(outside) == 1  # nothing tells what lies elsewhere from what isn't there
    assert str(tmp_path) not in outside.pop()


def test_a_full_disk_is_one_error_and_keeps_no_part_of_a_file(files):
    addresses = MediaAddresses(files, LIMITS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # as a disk with ten bytes left
    try:
        with pytest.raises(ServingError, match="no room") as refused:
            addresses.add(b"a" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (refused.value.status, files.nbytes) == (503, 0)
    assert not any(files.add(b"b").path.parent.glob("tmp*"))


# -------------------------------------------------------------------------------------- fetching


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"a")
                self.wfile.flush()
                threading.Event().wait(0.1)
            return
        moved = {"/moved": "/clip", "/away": "http://other.test/clip", "/round": "/round"}
        if self.path in moved:
            self.send_response(302)
            self.send_header("Location", moved[self.path])
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/clip", "/large") else 404)
        self.end_headers()
        self.wfile.write(b"x" * (200_000 if self.path == "/large" else 5))

    def log_message(self, *values):
        pass


@contextmanager
def served():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def hosts(port, is_public=lambda address: True, addresses=("127.0.0.1",)):
    return MediaHosts(
        frozenset({f"media.test:{port}"}), lambda host, port: list(addresses), is_public
    )


def test_named_hosts_are_fetched_from_and_nothing_else(files):
    with served() as port:
        at, known = f"http://media.test:{port}", hosts(port)
        assert content_of(f"{at}/clip", files, hosts=known) == b"xxxxx"
        assert content_of(f"{at}/moved", files, hosts=known) == b"xxxxx"
        said = {
            path: refusal_of(at + path, files, hosts=known).status
            for path in ("/away", "/round", "/large", "/none", "/a b")
        }
        assert said == {"/away": 403, "/round": 400, "/large": 413, "/none": 400, "/a b": 403}
        slow = dataclasses.replace(LIMITS, fetch_seconds=0.4)
        assert "longer" in refusal_of(f"{at}/slow", files, slow, hosts=known).message
    for address in (
        f"http://other.test:{port}/clip",
        "http://media.test/clip",
        f"http://media.test:{port}@other.test/clip",
        f"http://user@media.test:{port}/clip",
        f"http://127.0.0.1:{port}/clip",
    ):
        assert refusal_of(address, files, hosts=known).status == 403


@pytest.mark.parametrize(
    "address",
    ("127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1",
     "::ffff:10.0.0.1", "fe80::1", "fd00::1", "64:ff9b::a00:1", "2002:a00:1::", "fec0::1"),
)  # fmt: skip
def test_hosts_with_a_private_address_are_refused(files, address):
    usual = MediaHosts().is_public
    found = hosts(80, usual, ("93.184.215.14", address))
    error = refusal_of("http://media.test:80/clip", files, hosts=found)
    assert error.status == 403 and "public" in error.message and address not in error.message
