# CAN_MULTI_CONN: a write acknowledged on one connection is seen by all others at once, and flushed by any.
handles = [connect() for _ in range(4)]
picture = Picture()
size = len(picture)
assert all(h.can_multi_conn() for h in handles)
for _ in range(60):
    writer, flusher, reader = random.sample(handles, 3)
    length = 512 * random.randint(1, 128)
    offset = 512 * random.randint(0, (size - length) // 512)
    data = random.randbytes(length)
    writer.pwrite(data, offset)
    picture.write(offset, data)
    picture.assert_reads(reader, offset, length)
    flusher.flush()
    picture.assert_reads(reader, offset, length)

# All at once, each in its own quarter.
quarter = size // 4 // 4096 * 4096
work = []
for number, h in enumerate(handles):
    for place in random.sample(range(quarter // 4096), min(200, quarter // 4096)):
        data = random.randbytes(4096)
        offset = number * quarter + place * 4096
        work.append((h, h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)))
        picture.write(offset, data)
for h, cookie in work:
    wait_for(h, [cookie])
for h in handles:
    h.flush()
    offset = 4096 * random.randint(0, (size - (1 << 20)) // 4096)
    picture.assert_reads(h, offset, 1 << 20)
    h.shutdown()
picture.save()
