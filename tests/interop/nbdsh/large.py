# Lengths that only extended headers can express.
h = connect()
size = h.get_size()
assert size == 16 << 30
far = 9 << 30
h.pwrite(b"\x5a" * 65536, far)
h.pwrite(b"\xa5" * 65536, 1 << 30)

found = []
h.block_status_64(size, 0, lambda context, at, extents, error: found.extend(extents))
assert max(length for length, flags in found) > 1 << 32, found

h.zero(6 << 30, 0)
assert h.pread(65536, 1 << 30) == bytes(65536)
assert h.pread(65536, far) == b"\x5a" * 65536
h.trim(8 << 30, 8 << 30)
h.cache(5 << 30, 0)
h.zero(8 << 30, 8 << 30)
assert h.pread(65536, far) == bytes(65536)
h.flush()
h.shutdown()
