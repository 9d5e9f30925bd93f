# Every command in one reply mode, against the picture.
h = connect()
picture = Picture()
size = len(picture)
assert h.get_size() == size
assert h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero() and h.can_cache()
assert h.can_multi_conn() and not h.is_read_only()
assert h.can_df() == (MODE != "simple")

block = h.get_block_size(nbd.SIZE_MINIMUM) or 1


def place(limit):
    """A random range of at most `limit` bytes, in minimum blocks."""
    length = block * random.randint(1, limit // block)
    return block * random.randint(0, (size - length) // block), length


for _ in range(40):
    picture.assert_reads(h, *place(1 << 20))
for _ in range(20):
    offset, length = place(256 << 10)
    data = random.randbytes(length)
    h.pwrite(data, offset, random.choice([0, nbd.CMD_FLAG_FUA]))
    picture.write(offset, data)
    offset, length = place(256 << 10)
    h.zero(length, offset, random.choice([0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA]))
    picture.write(offset, bytes(length))
    # A TRIM leaves its range open, so it is written again.
    offset, length = place(256 << 10)
    h.trim(length, offset)
    data = random.randbytes(length)
    h.pwrite(data, offset)
    picture.write(offset, data)
    offset, length = place(1 << 20)
    h.cache(length, offset)
    h.flush()
    picture.assert_reads(h, *place(1 << 20))
if h.can_fast_zero():
    try:
        h.zero(1 << 20, 0, nbd.CMD_FLAG_FAST_ZERO)
        picture.write(0, bytes(1 << 20))
    except nbd.Error as error:
        assert error.errnum in (errno.ENOTSUP, errno.EOPNOTSUPP), error
    picture.assert_reads(h, 0, 1 << 20)

# The whole disk, and its last blocks.
offset = 0
while offset < size:
    length = min(8 << 20, size - offset)
    picture.assert_reads(h, offset, length)
    offset += length
picture.assert_reads(h, size - block, block)

if MODE != "simple":
    # Chunks cover the request once and in no other place.
    offset, length = 0, min(size, 16 << 20)
    seen = bytearray(length)
    holes = []

    def chunk(buffer, at, kind, error):
        assert kind in (nbd.READ_DATA, nbd.READ_HOLE), kind
        assert buffer == picture.bytes[at : at + len(buffer)], f"wrong chunk at {at}"
        for i in (at - offset, at - offset + len(buffer) - 1):
            assert seen[i] == 0
        seen[at - offset : at - offset + len(buffer)] = b"\1" * len(buffer)
        if kind == nbd.READ_HOLE:
            holes.append(len(buffer))

    h.pread_structured(length, offset, chunk)
    assert seen.count(0) == 0, "a part of the request has no chunk"
    if os.environ["HOLES"] == "1" and picture.bytes.count(bytes(1 << 20), 0, length):
        assert holes, "a sparse file was read without a hole"

    chunks = []
    h.pread_structured(65536, 0, lambda buffer, at, kind, error: chunks.append(kind), nbd.CMD_FLAG_DF)
    assert len(chunks) == 1, chunks

    # base:allocation covers the disk and calls nothing zero that is not.
    offset = 0
    while offset < size:
        found = []
        h.block_status_64(size - offset, offset, lambda context, at, extents, error: found.extend(extents))
        assert found
        for length, flags in found:
            assert length > 0
            end = min(size, offset + length)
            if flags & nbd.STATE_ZERO:
                assert not any(picture.bytes[offset:end]), f"{offset}+{length} is not zero"
            offset = end
    one = []
    h.block_status_64(size, 0, lambda context, at, extents, error: one.extend(extents), nbd.CMD_FLAG_REQ_ONE)
    assert len(one) == 1 and one[0][0] <= size, one

if MODE == "extended" and h.can_block_status_payload():
    seen = []
    h.block_status_filter(65536, 0, ["base:allocation"], lambda context, *rest: seen.append(context))
    assert seen == ["base:allocation"], seen

h.shutdown()
picture.save()
