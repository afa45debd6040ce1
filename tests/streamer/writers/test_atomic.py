import errno
import hashlib
import os
import stat
import subprocess
import sys

import pytest

from streamer.errors import OutputError
from streamer.writers import atomic
from streamer.writers.atomic import sweep_temporaries, write_atomically


def left(directory):
    return sorted(path.name for path in directory.iterdir())


def test_bytes_and_functions_write_the_same(tmp_path):
    data = b"some content" * 1000
    expected = (len(data), hashlib.sha256(data).hexdigest())
    assert write_atomically(tmp_path / "a", data) == expected
    assert write_atomically(tmp_path / "b", lambda file: file.write(data)) == expected
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == data
    assert left(tmp_path) == ["a", "b"]


def test_a_writer_may_go_back_to_its_header(tmp_path):
    def write(file):
        file.write(b"????body")
        file.seek(0)
        file.write(b"head")

    written = write_atomically(tmp_path / "a", write)
    assert written.sha256 == hashlib.sha256(b"headbody").hexdigest()
    assert written.bytes == 8


def test_directories_are_made_and_modes_are_closed(tmp_path):
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "x" / "y" / "a", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x" / "y" / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "x" / "y").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o750


def test_an_existing_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new content")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new content"


def test_file_and_directory_are_flushed_in_the_right_order(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        calls.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomically(tmp_path / "a", b"1")
    assert calls == ["file", "rename", "directory"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failing_disk_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch, number, step):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(b"old")
    if step == "write":
        data = fail
    else:
        data = b"new"
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / "a", data)
    monkeypatch.undo()
    assert left(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert caught.value.hint
    assert caught.value.where == str(tmp_path / "a")
    assert os.strerror(number) in str(caught.value)


def test_any_other_error_of_the_writer_leaves_nothing_either(tmp_path):
    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", fail)
    assert left(tmp_path) == []


def test_a_real_limit_leaves_nothing(tmp_path):
    """EFBIG by the kernel, in a process of its own, because the limit cannot be taken back."""
    script = f"""
import resource, signal
from pathlib import Path
from streamer.errors import OutputError
from streamer.writers.atomic import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    write_atomically(Path({str(tmp_path)!r}) / "a", bytes(1 << 20))
except OutputError as error:
    raise SystemExit(0 if "EFBIG" in str(error) else 3)
raise SystemExit(4)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
    assert left(tmp_path) == []


def test_where_no_directory_can_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "file" / "a", b"1")
    (tmp_path / "directory").mkdir()
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "directory", b"1")
    assert left(tmp_path) == ["directory", "file"]


@pytest.mark.parametrize("length", [200, 230, 255])
def test_long_names_still_have_a_temporary_one(tmp_path, length):
    write_atomically(tmp_path / ("x" * length), b"1")
    assert left(tmp_path) == ["x" * length]
    with pytest.raises(OutputError, match="too long"):
        write_atomically(tmp_path / ("ä" * 128), b"1")


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_dead_processes_are_swept(tmp_path):
    directory = tmp_path / "movies" / "r1"
    directory.mkdir(parents=True)
    dead = dead_process()
    swept = [
        directory / f".a.mrc.tmp-{dead}-0123456789abcdef",
        tmp_path / f".micrographs.star.tmp-{os.getpid()}-0123456789abcdef",
    ]
    kept = [
        directory / "a.mrc",
        directory / ".a.mrc.tmp-1-0123456789abcdef",  # process 1 is alive
        directory / f"a.mrc.tmp-{dead}-0123456789abcdef",
        directory / f".a.mrc.tmp-{dead}-0123",
        directory / f".a.mrc.tmp-{dead}-0123456789abcdef.bak",
    ]
    for path in swept + kept:
        path.write_bytes(b"x")
    assert sweep_temporaries(tmp_path) == sorted(swept)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in swept)
    assert sweep_temporaries(tmp_path / "absent") == []


def test_a_killed_writer_is_swept_up_after(tmp_path):
    script = f"""
import os
from pathlib import Path
from streamer.writers.atomic import write_atomically
write_atomically(Path({str(tmp_path)!r}) / "a", lambda file: (file.write(b"half"), file.flush(), os._exit(1)))
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert len(left(tmp_path)) == 1
    assert left(tmp_path)[0].startswith(".a.tmp-")
    assert len(sweep_temporaries(tmp_path)) == 1
    assert left(tmp_path) == []


def test_file_systems_without_directory_flush_are_fine(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no")
        fsync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    write_atomically(tmp_path / "a", b"1")
    assert left(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_swept_before_anybody_asks_for_its_ending(tmp_path):
    """Killed together with its parent, it may stay in the table of processes for long."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    path = tmp_path / f".a.mrc.tmp-{child.pid}-0123456789abcdef"
    path.write_bytes(b"half")
    assert sweep_temporaries(tmp_path) == []
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert sweep_temporaries(tmp_path) == [path]
    child.stdin.close()
    child.wait()


@pytest.mark.parametrize(
    ("place", "cure"),
    [
        ("file/r1/a.mrc", "a file is in the way"),
        ("directory/a.mrc", "a directory is in the way"),
        ("/proc/nowhere/a.mrc", "is the output volume mounted"),
    ],
)
def test_what_cannot_be_written_says_what_to_do_whatever_the_system_says(tmp_path, place, cure):
    (tmp_path / "file").touch()
    (tmp_path / "directory" / "a.mrc").mkdir(parents=True)
    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / place, b"x")
    assert cure in caught.value.hint
