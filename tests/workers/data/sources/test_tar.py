"""Tars are read in place: every member found where its bytes are, and nothing damaged or unsafe passes in silence."""

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from workers.data.sources.tar import Member, Span, index_tar
from workers.errors import DataError

Edit = Callable[[tarfile.TarInfo], None]


def tar_of(files: dict[str, bytes], edit: Edit | None = None, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if edit is not None:
                edit(info)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def index(content: bytes, within: Span | None = None) -> list[Member]:
    return list(index_tar(io.BytesIO(content), within or Span(0, len(content)), "x.tar"))


def bytes_of(content: bytes, member: Member) -> bytes:
    return content[member.span.offset : member.span.offset + member.span.size]


# 25 characters are at most 100 bytes of UTF-8, which a ustar header holds.
names = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/."), min_size=1, max_size=25)


@given(
    files=st.dictionaries(names | st.just("d" * 90 + "/" + "n" * 60), st.binary(max_size=1500), max_size=4),
    tar_format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
)
def test_members_of_a_tar_within_a_tar_lie_where_their_bytes_are(files, tar_format):
    outer = tar_of({"before": b"x" * 700, "inner.tar": tar_of(files, tar_format=tar_format), "after": b"y"})
    inner = {member.name: member for member in index(outer)}["inner.tar"]
    found = index(outer, inner.span)
    assert {member.name: bytes_of(outer, member) for member in found} == files


def test_every_cut_is_noticed():
    whole = tar_of({"a": b"1" * 600, "b": b"", "c": b"2" * 10})
    end = max(member.span.offset + member.span.size for member in index(whole))
    # Up to the first block of zeros after the last member.
    for length in range(0, -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + 1, 64):
        with pytest.raises(DataError, match=r"^x\.tar: ") as caught:
            index(whole[:length])
        assert "\n" not in str(caught.value)


def test_damage_in_the_middle_and_tars_joined_by_cat_are_not_taken_for_the_end():
    content = bytearray(tar_of({"a": b"1" * 600, "b": b"2" * 600, "c": b"3"}))
    content[3 * tarfile.BLOCKSIZE + 150] ^= 0xFF
    with pytest.raises(DataError, match="truncated or damaged: no tar header and no end mark at byte 1536"):
        index(bytes(content))
    with pytest.raises(DataError, match="data after its end mark"):
        index(tar_of({"a": b"1"}) + tar_of({"b": b"2"}))


def test_inner_tar_without_an_end_does_not_run_into_the_outer_one():
    cut = tar_of({"a": b"1" * 600})[: 3 * tarfile.BLOCKSIZE]
    outer = tar_of({"inner.tar": cut, "next.tar": b"z"})
    inner = index(outer)[0]
    with pytest.raises(DataError, match="no end mark at byte 1536"):
        index(outer, inner.span)


def as_type(kind: bytes) -> Edit:
    def edit(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, "/etc/passwd"

    return edit


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE], ids=repr
)
def test_links_and_devices_are_refused(kind):
    with pytest.raises(DataError, match="only plain files are read"):
        index(tar_of({"a": b""}, as_type(kind)))


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "line\nbreak", "\x85", "\udcff"])
def test_names_that_lead_elsewhere_or_break_a_line_are_refused(name):
    with pytest.raises(DataError) as caught:
        index(tar_of({name: b"1"}))
    assert "\n" not in str(caught.value)


def test_folders_are_passed_over():
    def folder(info):
        if info.name == "d":
            info.type = tarfile.DIRTYPE

    assert [member.name for member in index(tar_of({"d": b"", "d/a": b"1"}, folder))] == ["d/a"]


def test_header_that_asks_for_a_gigabyte_is_refused_unread():
    content = bytearray(tar_of({"n" * 150: b"1"}, tar_format=tarfile.GNU_FORMAT))
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    content[: tarfile.BLOCKSIZE] = info.tobuf(tarfile.GNU_FORMAT)

    class Huge(io.BytesIO):
        def read(self, size=-1, /):
            assert size is not None and size < 1 << 21
            return super().read(size)

    with pytest.raises(DataError, match="cannot be read as a tar"):
        list(index_tar(Huge(bytes(content)), Span(0, 1 << 31), "x.tar"))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b" + b"no tar" * 200, b"x" * 2000])
def test_what_is_no_tar_is_told_in_one_line(content):
    with pytest.raises(DataError, match=r"^x\.tar: cannot be read as a tar") as caught:
        index(content)
    assert "\n" not in str(caught.value)


def test_headers_that_lead_in_a_circle_end():
    content = bytearray(tar_of({"a": b"1", "b": b"2"}))
    header = tarfile.TarInfo("b")
    header.size = 0
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    # A negative size, as GNU's base-256 numbers allow: the next header would be an earlier one.
    block[124:136] = (-1024).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    content[1024:1536] = block
    with pytest.raises(DataError, match="lead in a circle"):
        index(bytes(content))
