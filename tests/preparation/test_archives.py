"""Archives are read front to back as tarfile reads them; broken and hostile ones are refused, whatever is wrong."""

import gzip
import hashlib
import io
import random
import tarfile
import tempfile
from pathlib import Path

import pytest
from frame_archives import tar_bytes, tar_gz
from hypothesis import given, settings
from hypothesis import strategies as st

from leap.preparation.agibot import archives
from leap.preparation.agibot.archives import ArchiveError, GzipStream, read_members

NAME = st.text(st.sampled_from("ab/é中 .1") | st.characters(codec="utf-8", exclude_characters="/\0"), max_size=140).map(
    lambda text: "/".join(part for part in text.split("/") if part not in ("", ".."))
)
FILES = st.lists(st.tuples(NAME.filter(bool), st.binary(max_size=1500)), max_size=8)
MOST = 1 << 20  # bytes of a member
FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def read_all(content: bytes, sizes: random.Random | None = None) -> list[tuple[str, bytes]]:
    """Every member with its content; a part of it only, where `sizes` says so."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with GzipStream(Path(file.name)) as stream:
            found = [
                (member.name, stream.read(sizes.randint(0, member.size)) if sizes else stream.content(member, MOST))
                for member in read_members(stream)
            ]
        assert stream.sha256 == hashlib.sha256(content).hexdigest()
        return found


@given(FILES, st.sampled_from(FORMS[1:]), st.integers(10, 700), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_members_are_read_as_tarfile_reads_them(
    files: list[tuple[str, bytes]], form: int, chunk: int, rng: random.Random
) -> None:
    content = tar_bytes(files, form=form)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    cut = rng.randint(0, len(content))  # two gzip files in one
    packed = gzip.compress(content[:cut]) + gzip.compress(content[cut:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "_CHUNK", chunk)
        assert read_all(packed) == expected
        in_part = read_all(packed, rng)
    assert [name for name, _ in in_part] == [name for name, _ in expected]
    assert all(whole.startswith(part) for (_, part), (_, whole) in zip(in_part, expected, strict=True))


def test_ustar_names_in_two_parts_and_folders() -> None:
    folder = tarfile.TarInfo("a" * 90)
    folder.type = tarfile.DIRTYPE
    name = f"{'a' * 90}/{'b' * 90}"
    assert read_all(tar_gz([(name, b"content")], form=tarfile.USTAR_FORMAT, odd=[folder])) == [(name, b"content")]


WHOLE = tar_gz([("327/1/1.jpg", bytes(range(256)) * 9), ("327/1/2.jpg", b"b" * 700)])


@given(st.integers(0, len(WHOLE) - 1))
@settings(max_examples=60)
def test_a_truncated_archive_is_refused(length: int) -> None:
    with pytest.raises(ArchiveError, match="download it again"):
        read_all(WHOLE[:length])


@given(st.integers(10, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=80)
def test_a_changed_byte_is_found(place: int, change: int) -> None:
    """Of those after gzip's header, which no checksum covers; a few changes say the same in another way."""
    try:
        changed = read_all(WHOLE[:place] + bytes([WHOLE[place] ^ change]) + WHOLE[place + 1 :])
    except ArchiveError as error:
        assert "download it again" in str(error)  # noqa: PT017
    else:
        assert changed == read_all(WHOLE)
        assert place < len(WHOLE) - 8  # the trailer: checksum and length


@given(st.binary(min_size=1, max_size=3000), st.integers(0, 1500))
@settings(max_examples=80)
def test_any_bytes_at_all_are_read_or_refused(noise: bytes, place: int) -> None:
    content = bytearray(tar_bytes([("327/1/1.jpg", b"a" * 600)]))
    content[place : place + len(noise)] = noise
    for tried in (noise, gzip.compress(noise), gzip.compress(bytes(content))):
        try:
            read_all(tried)
        except ArchiveError as error:
            assert str(error).count("\n") == 0  # noqa: PT017 - one line, if there is an error at all


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (special("327/1/1.jpg", tarfile.SYMTYPE, "/etc/passwd"), "a link, a device or a sparse file"),
        (special("327/1/1.jpg", tarfile.LNKTYPE, "327/1/0.jpg"), "a link, a device or a sparse file"),
        (special("327/1/1.jpg", tarfile.CHRTYPE), "a link, a device or a sparse file"),
        (special("327/1/1.jpg", tarfile.BLKTYPE), "a link, a device or a sparse file"),
        (special("327/1/1.jpg", tarfile.FIFOTYPE), "a link, a device or a sparse file"),
        (special("327/1/1.jpg", b"Z"), "a link, a device or a sparse file"),
        (special("/327/1/1.jpg", tarfile.REGTYPE), "no plain relative name"),
        (special("327/../../1/1.jpg", tarfile.REGTYPE), "no plain relative name"),
        (special("..", tarfile.DIRTYPE), "no plain relative name"),
        (special("x" * 70_000, tarfile.REGTYPE), "more than 65,536 bytes of headers"),
    ],
)
@pytest.mark.parametrize("form", FORMS[1:])
def test_hostile_members_refuse_the_archive(member: tarfile.TarInfo, message: str, form: int) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_all(tar_gz([], form=form, odd=[member]))


def pax(record: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    header = special("pax", kind)
    header.size = len(record)
    return header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)


def with_size(size: int) -> bytes:
    member = special("327/1/1.jpg", tarfile.REGTYPE)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse() -> bytes:
    header = bytearray(special("327/1/1.jpg", tarfile.REGTYPE).tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


END = bytes(1024)
SPARSE_MAP = pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + with_size(1 << 20) + b"99999\n" + b"1\n" * 99999


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_size(-512) + END, "a member of -512 bytes"),
        (with_size(1 << 62) + END, "'327/1/1.jpg': an image of 4,611,686,018,427,387,904 bytes"),
        (sparse() + END, "a sparse file"),
        (pax(b"22 GNU.sparse.major=1\n") + with_size(0) + END, "a sparse file"),
        (pax(b"14 size=-5000\n") + with_size(0) + END, "a member of -5000 bytes"),
        (pax(b"9999 path=a\n") + with_size(0) + END, "no plain relative name"),
        (pax(b"9" * 5000 + b" a=b\n") + with_size(0) + END, "not a valid tar archive"),
        (SPARSE_MAP, "more than 65,536 bytes of headers"),
        (pax(b"17 path=327/1/1/\n", tarfile.XGLTYPE) + with_size(0) + END, "one name or size for all"),
        (pax(b"16 path=/etc/pw\n") + with_size(0) + END, "no plain relative name"),
        (with_size(0), "no end mark"),
        (b"", "no end mark"),
        (END + with_size(0) + END, "more in it after the archive's end"),
        (b"plain text" * 200, "not a valid tar archive .invalid header"),
    ],
)
def test_hostile_bytes_refuse_the_archive(content: bytes, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_all(gzip.compress(content))


def test_chains_of_headers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """tarfile recurses here; a limit on members ends what would not end."""
    chain = pax(b"10 path=a\n")
    assert read_all(gzip.compress(chain * 30 + with_size(0) + END)) == [("a", b"")]
    with pytest.raises(ArchiveError, match="more than 65,536 bytes of headers"):
        read_all(gzip.compress(chain * 3000 + with_size(0) + END))
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 20)
    with pytest.raises(ArchiveError, match="more than 20 members"):
        read_all(gzip.compress(with_size(0) * 30 + END))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "task_1.tar.gz"
    with gzip.open(bomb, "wb", 9) as file:
        file.write(with_size(1 << 40))
        for _ in range(80):
            file.write(bytes(1 << 20))
    with GzipStream(bomb) as stream:
        with pytest.raises(ArchiveError, match="like a decompression bomb"):
            list(read_members(stream))
        assert stream.position < 1 << 27


NO_GZIP = {
    "pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "empty": b"",
    "zeros": bytes(100),
    "cut": b"\x1f\x8b",
    "long name": b"\x1f\x8b\x08\x08" + b"n" * 10**7,
}


@pytest.mark.parametrize("kind", NO_GZIP)
def test_what_is_no_gzip_file_is_refused(kind: str) -> None:
    with pytest.raises(ArchiveError, match=r"not valid gzip data|ends too early|no end mark"):
        read_all(NO_GZIP[kind])
