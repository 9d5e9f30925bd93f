# Requests that libnbd itself would refuse: the server answers each with the right error and the connection lives.
h = connect(strict=False)
picture = Picture()
size = len(picture)
block = h.get_block_size(nbd.SIZE_MINIMUM) or 1


def refused(call, *expected):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum in expected, f"{error} is not one of {[errno.errorcode[e] for e in expected]}"
    else:
        raise AssertionError("the server accepted it")
    # Alive, and in step: the next reply is the next request's.
    picture.assert_reads(h, block, block)


data = random.randbytes(4096)
refused(lambda: h.pread(4096, size - 2048 // block * block), errno.EINVAL)
refused(lambda: h.pread(4096, size), errno.EINVAL)
refused(lambda: h.pread(4096, (1 << 63) - 4096), errno.EINVAL)
refused(lambda: h.pwrite(data, size - 2048 // block * block), errno.ENOSPC)
refused(lambda: h.pwrite(data, size), errno.ENOSPC)
refused(lambda: h.zero(4096, size), errno.ENOSPC)
refused(lambda: h.trim(4096, size), errno.EINVAL)
refused(lambda: h.cache(4096, size), errno.EINVAL)
# Flags unknown, or of another command.
refused(lambda: h.pread(4096, 0, nbd.CMD_FLAG_NO_HOLE), errno.EINVAL)
refused(lambda: h.pwrite(data, 0, nbd.CMD_FLAG_DF), errno.EINVAL)
refused(lambda: h.pwrite(data, 0, nbd.CMD_FLAG_FAST_ZERO), errno.EINVAL)
refused(lambda: h.trim(4096, 0, nbd.CMD_FLAG_REQ_ONE), errno.EINVAL)
refused(lambda: h.pwrite(data, 0, 1 << 15), errno.EINVAL)
refused(lambda: h.flush(1 << 15), errno.EINVAL)
if MODE == "simple":
    refused(lambda: h.block_status_64(4096, 0, lambda *rest: 0), errno.EINVAL)
# The largest payload, for a smaller disk: refused, with its payload read.
try:
    h.pwrite(bytes(32 << 20), 0)
except nbd.Error as error:
    assert error.errnum in (errno.EINVAL, errno.EOVERFLOW, errno.ENOSPC), error
picture.assert_reads(h, block, block)
# The protocol leaves it open what a request of no bytes means; it is no reason to leave.
for call in (lambda: h.pread(0, 0), lambda: h.pwrite(b"", 0), lambda: h.trim(0, 0), lambda: h.zero(0, 0)):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum in (errno.EINVAL, errno.ENOSPC), error
picture.assert_reads(h, block, block)
h.shutdown()
