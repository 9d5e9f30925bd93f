//! New processes take over from each other in a guest, so under the kernel of another Debian too, while fio verifies what it writes.
//!
//! ```text
//! RINGNBD_GUEST_KERNEL=$(tests/peers kernel bookworm) RINGNBD_HANDOVERS=100 cargo test --test vm handover -- --ignored --nocapture
//! ```

use std::time::Duration;

use crate::guest::Guest;

/// fio's client connects once. A connection that ends is an error of the job, so whoever is there at the end was there from the beginning,
/// with the same addresses on both sides.
const SCRIPT: &str = "
ip link set lo up
mkdir -p /run
mount -t tmpfs tmpfs /mnt
truncate -s 64M /mnt/disk
failed() { echo guest: FAILED \"$@\"; tail -n 20 /run/log; poweroff -f; }
serve() {
  shards=$1
  shift
  /bin/ringnbd serve /mnt/disk --tcp 127.0.0.1:10809 --shards $shards --memory 128M --pidfile /run/pid --control unix:/run/control \"$@\" \
    2>>/run/log &
  until [ \"$(cat /run/pid 2>/dev/null)\" = $! ]; do
    kill -0 $! 2>/dev/null || failed \"a server ended\"
    sleep 0.1
  done
}
# Those of clients, by both addresses. The port is 0x2A39.
connections() { awk '$3 ~ /:2A39$/ && $4 == \"01\" { print $2, $3 }' /proc/net/tcp | sort; }

serve 1
/bin/fio --name=verified --ioengine=nbd --uri=nbd://127.0.0.1/ --rw=randwrite --bsrange=4k-256k --iodepth=8 --numjobs=2 --thread \
  --size=16m --offset_increment=32m --verify=crc32c --verify_fatal=1 --verify_backlog=32 --verify_state_save=0 \
  --time_based --runtime=1d >/run/fio 2>&1 &
fio=$!
# It asks for the size with a connection that it drops, and the files of /mnt have blocks when it writes.
until [ $(connections | wc -l) = 2 ] && [ $(stat -c %b /mnt/disk) -gt 0 ]; do
  kill -0 $fio || failed \"$(cat /run/fio)\"
  sleep 0.1
done
connections >/run/before
moved=0
while [ $moved -lt HANDOVERS ]; do
  kill -0 $fio || failed \"$(cat /run/fio)\"
  serve $((moved % 2 + 1)) --takeover unix:/run/control
  moved=$((moved + 1))
done
connections >/run/after
grep -Fvxf /run/before /run/after && failed \"connections that are new\"
[ $(wc -l </run/after) = 2 ] || failed \"connections that are gone\"
# With so many seconds it ends by a signal, which it says by its status; errors it says by job.
kill -TERM $fio
wait $fio
[ $? = 128 ] || failed \"$(cat /run/fio)\"
grep -q panicked /run/log && failed
echo guest: $(uname -r), $moved hand-overs, $(grep -c 'err= 0' /run/fio) jobs without an error
poweroff -f
";

#[test]
#[ignore = "a campaign: see tests/CAMPAIGNS.md"]
fn fio_does_not_notice_hand_overs_under_the_guests_kernel() {
    let wanted: u64 =
        std::env::var("RINGNBD_HANDOVERS").map_or(3, |number| number.parse().expect("a number"));
    let script = SCRIPT.replace("HANDOVERS", &wanted.to_string());
    let binary = std::env::var("RINGNBD_TEST_BINARY");
    let binary = std::path::absolute(binary.as_deref().unwrap_or(env!("CARGO_BIN_EXE_ringnbd"))).unwrap();
    let guest = Guest::new(&script)
        .modules(&["crc32c_generic"])
        .program(binary.to_str().unwrap())
        .program("usr/bin/fio")
        .memory(1024)
        .deadline(Duration::from_secs(240 + 60 * wanted));
    let Some(finished) = guest.run() else { return };
    let console = finished.ok();
    let told = console.lines().find(|line| line.starts_with("guest: ")).unwrap_or_default();
    println!("{told}");
    assert!(told.contains(&format!(", {wanted} hand-overs, 2 jobs without")), "{console}");
}
