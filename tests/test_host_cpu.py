"""What is read of the CPU."""

from __future__ import annotations

import pytest

from stts_jax import host_cpu


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        (None, False),
    ],
    ids=["with", "in part", "ARM", "not Linux"],
)
def test_avx512_is_found_where_linux_says_so(text, found, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(host_cpu, "_LINUX", file)
    assert host_cpu.has_avx512.__wrapped__() is found
