# Many commands in flight at once on one connection: each gets its own bytes.
h = connect()
picture = Picture()
size = len(picture)

# 1,000 reads before the first reply is looked at.
reads = []
for _ in range(1000):
    length = 512 * random.randint(1, 32)
    offset = 512 * random.randint(0, (size - length) // 512)
    buffer = nbd.Buffer(length)
    reads.append((h.aio_pread(buffer, offset), buffer, offset, length))
assert h.aio_in_flight() + 0 >= 0
wait_for(h, [read[0] for read in reads])
for cookie, buffer, offset, length in reads:
    assert buffer.to_bytearray() == picture.bytes[offset : offset + length], f"wrong bytes in {offset}+{length}"

# Reads of one half among writes to the other; disjoint writes, so that their order does not matter.
half = size // 2 // 4096 * 4096
places = random.sample(range(half // 4096), min(500, half // 4096))
cookies, reads = [], []
for place in places:
    data = random.randbytes(4096)
    cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), place * 4096))
    picture.write(place * 4096, data)
    offset = half + 4096 * random.randint(0, (size - half) // 4096 - 1)
    buffer = nbd.Buffer(4096)
    cookie = h.aio_pread(buffer, offset)
    cookies.append(cookie)
    reads.append((buffer, offset))
cookies.append(h.aio_flush())
wait_for(h, cookies)
for buffer, offset in reads:
    assert buffer.to_bytearray() == picture.bytes[offset : offset + 4096], f"wrong bytes at {offset}"
for place in places:
    picture.assert_reads(h, place * 4096, 4096)
h.shutdown()
picture.save()
