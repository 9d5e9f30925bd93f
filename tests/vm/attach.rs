//! `ringnbd attach` in a guest: the kernel's NBD client is there, and so are the server, its killing and its resizing.

use std::time::Duration;

use crate::guest::Guest;
use crate::netlink::{KernelClient, connect};

/// How long the guest of a campaign may take, or one that does much, on a machine that does other things too.
pub(crate) const CAMPAIGN: Duration = Duration::from_secs(1200);

/// What every script begins with: a server of the guest's own, over a unix socket and TCP. `serve` and `ringnbd` are the program;
/// `attach` and `detach` say what failed.
const PRELUDE: &str = r#"
failed() { echo "guest: FAILED $*"; }
must() { "$@" || failed "$*"; }
must_not() { if "$@" 2>/d/refusal; then failed "it should be refused: $*"; else cat /d/refusal; fi; }
mkdir -p /run /tmp /d
mount -t tmpfs -o size=300m none /d
ip link set lo up
unix() { echo "nbd+unix:///$1?socket=/run/s"; }
tcp() { echo "nbd://127.0.0.1/$1"; }
start() {
  /bin/ringnbd serve $EXPORTS --unix /run/s --tcp 127.0.0.1:10809 --shards 1 --memory 96M 2>>/d/log &
  server=$!
  until /bin/ringnbd info $(unix one) >/dev/null 2>&1; do
    sleep 0.1
    kill -0 $server 2>/dev/null || { failed "the server is gone"; tail -n 3 /d/log; break; }
  done
}
crash() { kill -9 $server; wait $server 2>/dev/null; }
supervisor() { head -n 1 /run/ringnbd-attach/$(basename $1); }
lives() { [ -d /proc/$1 ] && ! grep -q 'State:.*Z' /proc/$1/status; }
of() { grep -l " nbd+unix:///$1?" /sys/block/nbd*/backend 2>/dev/null | cut -d/ -f4; }
is_supervised() {
  device=$(of $1); [ -n "$device" ] && lives $(supervisor $device) 2>/dev/null && [ "$(cat /sys/block/$device/size)" = $2 ]
}
becomes() { i=0; until is_supervised $1 $2; do sleep 0.1; i=$((i + 1)); [ $i -lt 300 ] || { failed "$1 has no device"; return; }; done; }
end() {
  [ "$(/bin/ringnbd devices --json | tr -d ' \n')" = '{"devices":[]}' ] || failed "left: $(/bin/ringnbd devices)"
  for pid in /run/ringnbd-attach/*; do
    kill -0 $(head -n 1 $pid) 2>/dev/null && failed "a supervisor is left"
  done
  kill $server; wait $server || failed "the server's end"
  dmesg | grep -E 'I/O error|hung task|BUG:|WARNING:' && failed "the kernel complained"
  echo guest: end
  poweroff -f
}
"#;

/// A guest that runs `script` beside a server of `exports`.
pub(crate) fn guest(exports: &str, script: &str) -> Guest {
    let binary =
        std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
    let name = binary.rsplit('/').next().unwrap();
    let script = format!("EXPORTS='{exports}'\n{PRELUDE}\n{script}\nend\n");
    Guest::new(&script.replace("/bin/ringnbd", &format!("/bin/{name}")))
        .modules(&["nbd", "crc32c_generic", "ext4"])
        .program(&binary)
        .program("usr/sbin/mke2fs")
        .program("usr/sbin/e2fsck")
        .program("usr/sbin/resize2fs")
        .program("usr/bin/fio")
        .memory(1024)
}

/// The console of a guest that said nothing of failures, and came to its end.
pub(crate) fn console_of(guest: Guest) -> Option<String> {
    let console = guest.run()?.ok().replace('\r', "");
    assert!(console.contains("guest: end") && !console.contains("FAILED"), "{console}");
    Some(console)
}

/// A file system survives detaching; what must not be detached is not; nothing is left of twenty attaches.
#[test]
fn attaches_and_detaches() {
    let script = r#"
truncate -s 64M /d/one.img
truncate -s 4M /d/two.img
start
device=$(/bin/ringnbd attach $(unix one)) || failed attach
must /bin/mke2fs -q -t ext4 $device
must mount -t ext4 $device /mnt
dd if=/dev/urandom of=/mnt/file bs=64k count=100 2>/dev/null
(cd /mnt; sha256sum file > sums)
must_not /bin/ringnbd detach $device
must_not /bin/ringnbd attach $(unix one)
must_not /bin/ringnbd attach --device $device $(unix two)
must_not /bin/ringnbd attach $(unix none)
/bin/ringnbd devices
must umount /mnt
must /bin/ringnbd detach $device
must_not /bin/ringnbd detach $device
device=$(/bin/ringnbd attach --device /dev/nbd7 --connections 2 $(tcp one)) || failed attach
[ $device = /dev/nbd7 ] || failed "it is $device"
must mount -t ext4 /dev/nbd7 /mnt
(cd /mnt; must sha256sum -c sums)
must umount /mnt
must /bin/e2fsck -fn /dev/nbd7
must /bin/ringnbd detach $(tcp one)
device=$(/bin/ringnbd attach --read-only $(unix one)) || failed attach
dd if=/dev/zero of=$device bs=4k count=1 2>/dev/null && failed "a read-only device was written"
must /bin/ringnbd detach $device
dd if=/dev/urandom of=/d/two.img bs=64k count=64 conv=notrunc 2>/dev/null
i=0
while [ $i -lt 20 ]; do
  device=$(/bin/ringnbd attach $(unix two)) || failed attach
  must cmp $device /d/two.img
  must /bin/ringnbd detach $device
  i=$((i + 1))
done
echo guest: $i attached
"#;
    let Some(console) = console_of(guest("one=/d/one.img two=/d/two.img", script)) else { return };
    assert!(console.contains("guest: 20 attached"), "{console}");
    assert!(console.contains("is in use: unmount it"), "{console}");
    assert!(console.contains("is not attached"), "{console}");
}

/// A process of the guest that attaches a device as another program would. Outside of a guest there is nothing to do.
#[test]
fn inside_the_guest() {
    let Ok(index) = std::env::var("FOREIGN_DEVICE") else { return };
    let identifier = std::env::var("FOREIGN_IDENTIFIER").unwrap();
    let (stream, size, _) = connect("127.0.0.1:10809").expect("connect");
    KernelClient::leave_with_identifier(index.parse().unwrap(), &identifier, &stream, size).expect("attach");
}

/// The server and the supervisor are killed in turns and together, while a device is written and verified.
#[test]
fn a_killed_supervisor_is_followed_by_one_that_finds_its_device() {
    let script = r#"
truncate -s 32M /d/one.img
truncate -s 4M /d/two.img
start
# Devices that nobody may adopt: without an identifier, with others' that name the export, and of another export.
foreign() { must env FOREIGN_DEVICE=$1 "FOREIGN_IDENTIFIER=$2" /bin/TESTS attach::inside_the_guest --exact -q >/dev/null; }
uuid=67e55044-10b1-426f-9247-bb680e5fe0c8
foreign 4 ""
foreign 5 "ringnbd/1 nobody $(unix one)"
foreign 6 "$(unix one)"
foreign 8 "ringnbd/1 $uuid $(unix '')"
device=$(/bin/ringnbd attach --connections 4 $(unix one)) || failed attach
/bin/fio --name=attach --filename=$device --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=16 --size=16m \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=SECONDS >/d/fio 2>&1 &
fio=$!
round=0
while [ $round -lt ROUNDS ]; do
  sleep 2
  case $((round % 3)) in
    0) crash; start
       # Its supervisor notices by itself.
       must dd if=$device of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null ;;
    1) kill -9 $(supervisor $device); sleep 1
       must /bin/ringnbd attach $(unix one) ;;
    2) kill -9 $(supervisor $device); crash; sleep 1
       again=$(/bin/ringnbd attach $(unix one)) || failed adopt
       [ $again = $device ] || failed "it adopted $again"
       start ;;
  esac
  [ $(ls -d /sys/block/nbd*/pid | wc -l) = 5 ] || failed "other devices: $(/bin/ringnbd devices)"
  round=$((round + 1))
done
wait $fio || { failed fio; cat /d/fio; }
echo guest: $round kills
/bin/ringnbd devices
must_not /bin/ringnbd detach /dev/nbd5
must_not /bin/ringnbd attach --device /dev/nbd6 $(unix one)
for device in /dev/nbd4 /dev/nbd5 /dev/nbd6 /dev/nbd8; do
  must /bin/ringnbd detach --force $device
done
must /bin/ringnbd detach $(unix one)
"#;
    let rounds: u64 = std::env::var("RINGNBD_RESTARTS").map_or(6, |rounds| rounds.parse().expect("a number"));
    let script =
        script.replace("ROUNDS", &rounds.to_string()).replace("SECONDS", &(rounds * 6 + 6).to_string());
    let tests = std::env::current_exe().unwrap();
    let script = script.replace("TESTS", tests.file_name().unwrap().to_str().unwrap());
    let guest = guest("one=/d/one.img /d/two.img", &script).program(tests.to_str().unwrap());
    let Some(console) = console_of(guest) else { return };
    assert!(console.contains(&format!("guest: {rounds} kills")), "{console}");
    assert!(console.contains("was not attached by ringnbd"), "{console}");
}

/// A server attaches its own exports, finds them again after a kill while they are written, and detaches them at its end.
#[test]
fn a_server_attaches_its_own_exports() {
    let script = r#"
truncate -s 32M /d/one.img
cat > /d/c.toml <<END
[[export]]
name = "one"
uri = "/d/one.img"
[[export]]
name = "gone"
uri = "mem:4M"
[[attach]]
export = "one"
device = "/dev/nbd5"
connections = 2
timeout = "5s"
[[attach]]
export = "gone"
END
EXPORTS="--config /d/c.toml --attach extra=/dev/nbd9 extra=mem:1M"
start
becomes one 65536; becomes gone 8192; becomes extra 2048
[ $(of one) = nbd5 ] && [ $(of extra) = nbd9 ] || failed "other devices: $(/bin/ringnbd devices)"
gone=/dev/$(of gone)
echo lost | dd of=$gone conv=fsync 2>/dev/null
identifiers="$(cat /sys/block/nbd5/backend) $(cat /sys/block/$(of gone)/backend)"
must /bin/mke2fs -q -t ext4 /dev/nbd5
must mount -t ext4 /dev/nbd5 /mnt
/bin/fio --name=attach --filename=/mnt/file --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=16 --size=16m \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=SECONDS >/d/fio 2>&1 &
fio=$!
round=0
while [ $round -lt ROUNDS ]; do
  sleep 2
  was=$(supervisor nbd5)
  crash
  i=0
  while lives $was 2>/dev/null; do sleep 0.1; i=$((i + 1)); [ $i -lt 100 ] || { failed "its supervisor stays"; break; }; done
  start
  becomes one 65536; becomes gone 8192
  round=$((round + 1))
done
wait $fio || { failed fio; cat /d/fio; }
[ $(ls -d /sys/block/nbd*/pid | wc -l) = 3 ] || failed "other devices: $(/bin/ringnbd devices)"
gone=/dev/$(of gone)
[ "$(cat /sys/block/nbd5/backend) $(cat /sys/block/$(of gone)/backend)" != "$identifiers" ] || failed "what was lost was adopted"
case "$identifiers" in "$(cat /sys/block/nbd5/backend) "*) ;; *) failed "the device was not adopted" ;; esac
dd if=$gone bs=4 count=1 2>/dev/null | grep -q lost && failed "it shows what is lost"
# A clean stop detaches what nobody uses. The rest waits for the next server.
kill $server; wait $server || failed "the server's end"
[ $(ls -d /sys/block/nbd*/pid | wc -l) = 1 ] || failed "left: $(/bin/ringnbd devices)"
lives $(supervisor nbd5) && failed "a supervisor is left"
start
becomes one 65536; becomes gone 8192
must umount /mnt
must /bin/e2fsck -fn /dev/nbd5
# What an operator detaches stays so.
must /bin/ringnbd detach $(unix gone)
sleep 1
[ -z "$(of gone)" ] || failed "it was attached again"
kill $server; wait $server || failed "the server's end"
[ "$(/bin/ringnbd devices --json | tr -d ' \n')" = '{"devices":[]}' ] || failed "left: $(/bin/ringnbd devices)"
grep -o 'stays attached[^"]*' /d/log | head -n 1
EXPORTS="one=/d/one.img"
start
echo guest: $round kills of its own
"#;
    let rounds: u64 = std::env::var("RINGNBD_RESTARTS").map_or(2, |rounds| rounds.parse().expect("a number"));
    let script =
        script.replace("ROUNDS", &rounds.to_string()).replace("SECONDS", &(rounds * 6 + 6).to_string());
    let Some(console) = console_of(guest("", &script)) else { return };
    assert!(console.contains(&format!("guest: {rounds} kills of its own")), "{console}");
    assert!(console.contains("stays attached, and its requests wait"), "{console}");
}

/// The server comes back with a larger disk, and then with a smaller one, which is not taken.
#[test]
fn a_mounted_file_system_grows() {
    let script = r#"
truncate -s 32M /d/one.img
start
device=$(/bin/ringnbd attach $(unix one)) || failed attach
must /bin/mke2fs -q -t ext4 $device
must mount -t ext4 $device /mnt
size() { cat /sys/block/$(basename $device)/size; }
crash
truncate -s 64M /d/one.img
start
i=0
until [ $(size) = 131072 ]; do
  sleep 0.1; i=$((i + 1))
  [ $i -lt 300 ] || { failed "it did not grow"; break; }
done
must /bin/resize2fs $device
dd if=/dev/urandom of=/mnt/file bs=1M count=45 2>/dev/null || failed "no room"
crash
cp /d/one.img /d/whole.img
truncate -s 48M /d/one.img
start
must_not /bin/ringnbd attach --grow $(unix one)
[ $(size) = 131072 ] || failed "it shrank"
crash
mv /d/whole.img /d/one.img
start
must umount /mnt
must /bin/e2fsck -fn $device
crash
truncate -s 96M /d/one.img
kill -9 $(supervisor $device)
start
must /bin/ringnbd attach --grow $(unix one)
[ $(size) = 196608 ] || failed "it did not grow when it was asked to"
must /bin/ringnbd attach $(unix one)
must /bin/ringnbd detach $device
"#;
    let Some(console) = console_of(guest("one=/d/one.img", script)) else { return };
    assert!(console.contains("it may only grow"), "{console}");
}

/// A server tells a device of a larger file, and of a larger image, while both are written. Nothing else is asked for.
#[test]
fn a_device_grows_with_its_export() {
    let script = r#"
truncate -s 32M /d/one.img
must /bin/ringnbd store init /d/store
must /bin/ringnbd image create /d/store/vm 32M
EXPORTS="$EXPORTS --control unix:/run/c"
ulimit -n 20000
start
size() { cat /sys/block/$(basename $1)/size; }
grows() {
  i=0
  until [ $(size $1) = $2 ]; do
    sleep 0.1; i=$((i + 1))
    [ $i -lt 600 ] || { failed "$1 did not grow"; /bin/ringnbd devices; tail -n 5 /d/log; break; }
  done
}
device=$(/bin/ringnbd attach --connections 2 $(unix one)) || failed attach
must /bin/mke2fs -q -t ext4 $device
must mount -t ext4 $device /mnt
alone=$(/bin/ringnbd attach --connections 1 $(unix vm)) || failed attach
patient=$(/bin/ringnbd attach --connections 1 --dead-timeout 0 --read-only $(tcp one)) || failed attach
/bin/fio --name=attach --filename=/mnt/file --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=16 --size=8m \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=12 >/d/fio 2>&1 &
fio=$!
/bin/fio --name=alone --filename=$alone --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=16 --size=8m \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=12 >/d/fio.alone 2>&1 &
other=$!
sleep 3
must /bin/ringnbd ctl --control unix:/run/c resize one 64M
must /bin/ringnbd image resize /d/store/vm 48M
grows $device 131072; grows $alone 98304
must /bin/ringnbd ctl --control unix:/run/c resize one 96M
grows $device 196608
must /bin/resize2fs $device
dd if=/dev/zero of=/mnt/more bs=1M count=50 2>/dev/null || failed "no room"
wait $fio || { failed fio; cat /d/fio; }
wait $other || { failed fio; cat /d/fio.alone; }
# One that fails requests without a connection keeps its connection, and its size.
[ $(size $patient) = 65536 ] && dd if=$patient of=/dev/null bs=1M iflag=direct 2>/dev/null || failed "$patient"
/bin/ringnbd devices
must umount /mnt
must /bin/e2fsck -fn $device
dd if=/dev/zero of=$alone bs=1M seek=47 count=1 oflag=direct 2>/dev/null || failed "the end of the image"
dd if=/dev/zero of=$alone bs=1M seek=48 count=1 oflag=direct 2>/dev/null && failed "beyond the image"
must /bin/ringnbd detach $device
must /bin/ringnbd detach $alone
must /bin/ringnbd detach $patient
echo guest: grown
"#;
    let guest = guest("one=/d/one.img store:/d/store", script).deadline(CAMPAIGN);
    let Some(console) = console_of(guest) else { return };
    assert!(console.contains("guest: grown"), "{console}");
}

/// No packet arrives for ten seconds, and none is lost for good.
#[test]
fn a_cable_is_pulled() {
    let script = r#"
truncate -s 32M /d/one.img
start
device=$(/bin/ringnbd attach --connections 2 $(tcp one)) || failed attach
/bin/fio --name=attach --filename=$device --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=8 --size=8m \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=20 >/d/fio 2>&1 &
fio=$!
sleep 4
ip link set lo down
sleep 10
ip link set lo up
wait $fio || { failed fio; cat /d/fio; }
must /bin/ringnbd detach $device
"#;
    let _ = console_of(guest("one=/d/one.img", script));
}

/// Server and device are in two network namespaces, as on two machines. The cable between them is pulled for ten seconds.
#[test]
#[ignore = "a campaign: see tests/CAMPAIGNS.md"]
fn a_cable_between_two_namespaces_is_pulled() {
    let script = r#"
truncate -s 32M /d/one.img
# The other end of the cable is called as the kernel likes.
must ip link add near type veth
far=$(ls /sys/class/net | grep -v -x -e near -e lo)
unshare -n /bin/ringnbd serve $EXPORTS --unix /run/s --tcp 0.0.0.0:10809 --shards 1 --memory 96M 2>>/d/log &
server=$!
until /bin/ringnbd info $(unix one) >/dev/null 2>&1; do
  sleep 0.1
  kill -0 $server 2>/dev/null || { failed "the server is gone"; tail -n 3 /d/log; break; }
done
must ip link set $far netns $server
must ip address add 10.9.0.1/24 dev near
must ip link set near up
must nsenter -t $server -n /bin/ip address add 10.9.0.2/24 dev $far
must nsenter -t $server -n /bin/ip link set $far up
must /bin/ringnbd info nbd://10.9.0.2/one
device=$(/bin/ringnbd attach --connections 2 nbd://10.9.0.2/one) || failed attach
must_not /bin/ringnbd info $(tcp one)
/bin/fio --name=attach --filename=$device --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=8 --size=8m \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=20 >/d/fio 2>&1 &
fio=$!
sleep 4
ip link set near down
[ "$(cat /sys/class/net/near/operstate)" = down ] || failed "the cable is in"
sleep 10
ip link set near up
wait $fio || { failed fio; cat /d/fio; }
must /bin/ringnbd detach $device
"#;
    let _ = console_of(guest("one=/d/one.img", script).modules(&["veth"]).deadline(CAMPAIGN));
}

/// XFS under load, over a server that is killed and started again.
#[test]
#[ignore = "a campaign: see tests/CAMPAIGNS.md"]
fn xfs_on_a_device_survives_its_server() {
    let script = r#"
truncate -s 320M /d/one.img
start
device=$(/bin/ringnbd attach --connections 2 $(unix one)) || failed attach
must /bin/mkfs.xfs -q $device
must mount -t xfs $device /mnt
/bin/fio --name=attach --directory=/mnt --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=16 --size=16m --fsync=64 \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=12 >/d/fio 2>&1 &
fio=$!
sleep 4
crash; start
sleep 4
kill -9 $(supervisor $device); crash; start
must /bin/ringnbd attach $(unix one)
wait $fio || { failed fio; cat /d/fio; }
must umount /mnt
must /bin/xfs_repair -n $device
must /bin/ringnbd detach $device
"#;
    let guest = guest("one=/d/one.img", script).modules(&["xfs"]).deadline(CAMPAIGN);
    let _ = console_of(guest.program("usr/sbin/mkfs.xfs").program("usr/sbin/xfs_repair"));
}

/// The supervisor encrypts: when it is killed the connections go with it, and the next one makes new ones.
#[test]
#[ignore = "a campaign: see tests/CAMPAIGNS.md"]
fn attaches_over_tls() {
    let script = r#"
truncate -s 32M /d/one.img
must /bin/ringnbd tls init /d/tls
EXPORTS="$EXPORTS --tls /d/tls --tls-mode selective"
secure="nbds://127.0.0.1/one?tls-certificates=tls&tls-hostname=localhost"
cd /d
start
device=$(/bin/ringnbd attach --connections 2 "$secure") || failed attach
must_not /bin/ringnbd attach "nbds://127.0.0.1/one?tls-certificates=tls&tls-hostname=elsewhere"
must /bin/mke2fs -q -t ext4 $device
must mount -t ext4 $device /mnt
/bin/fio --name=attach --filename=/mnt/file --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=16 --size=8m \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=15 >/d/fio 2>&1 &
fio=$!
sleep 3
crash; start
sleep 3
kill -9 $(supervisor $device); sleep 1
again=$(/bin/ringnbd attach "$secure") || failed adopt
[ $again = $device ] || failed "it adopted $again"
sleep 3
kill -9 $(supervisor $device); crash; start
must /bin/ringnbd attach "$secure"
wait $fio || { failed fio; cat /d/fio; }
/bin/ringnbd devices
must umount /mnt
must /bin/e2fsck -fn $device
must /bin/ringnbd detach $device
encrypted=$(grep -c 'Certificate(' /d/log)
[ $encrypted -ge 8 ] || failed "$encrypted connections with a certificate"
echo guest: encrypted
"#;
    let Some(console) = console_of(guest("one=/d/one.img", script).deadline(CAMPAIGN)) else { return };
    assert!(console.contains("guest: encrypted") && console.contains("nbds://127.0.0.1/one"), "{console}");
}

/// Sixteen at a time. `RINGNBD_ATTACHES=1000` makes it a campaign; prints how long attaching and detaching took.
#[test]
fn many_attach_and_detach_at_a_time() {
    let each =
        std::env::var("RINGNBD_ATTACHES").map_or(1, |all| all.parse::<u32>().expect("a number").div_ceil(16));
    let script = r#"
n=1
for name in $NAMES; do truncate -s 1M /d/$name.img; done
start
sockets() { ls -l /proc/$server/fd | grep -c socket: ; }
before=$(sockets)
now() { sed 's/ .*//; s/\.//' /proc/uptime; }
work() {
  local i=0 begin attached device
  while [ $i -lt EACH ]; do
    begin=$(now)
    device=$(/bin/ringnbd attach --connections 2 $(unix $1)) || { failed attach; return; }
    attached=$(now)
    must /bin/ringnbd detach $device
    echo $((attached - begin)) $(($(now) - attached)) >> /d/times.$1
    i=$((i + 1))
  done
}
workers=
for name in $NAMES; do work $name & workers="$workers $!"; done
wait $workers
cat /d/times.* > /d/times
count=$(wc -l < /d/times)
at() { sort -n -k $1 /d/times | awk "{print \$$1}" | sed -n "$((count * $2 / 100 + 1))p"; }
echo "guest: $count attached, in 1/100 s: attach p50 $(at 1 50) p99 $(at 1 99), detach p50 $(at 2 50) p99 $(at 2 99)"
for device in /sys/block/nbd*; do
  [ $(cat $device/size) = 0 ] && [ ! -e $device/pid ] || failed "left: $device"
done
i=0
until [ $(sockets) = $before ]; do
  sleep 0.1; i=$((i + 1))
  [ $i -lt 100 ] || { failed "the server had $before sockets and has $(sockets)"; break; }
done
"#;
    let mut names: Vec<String> = (1..16).map(|number| format!("disk{number}")).collect();
    names.push("one".into());
    let exports: Vec<String> = names.iter().map(|name| format!("{name}=/d/{name}.img")).collect();
    let script = format!("NAMES='{}'\n{script}", names.join(" ")).replace("EACH", &each.to_string());
    let deadline = Duration::from_secs(200 + 30 * u64::from(each));
    let Some(console) = console_of(guest(&exports.join(" "), &script).deadline(deadline)) else { return };
    println!("{}", console.lines().filter(|line| line.contains("guest:")).collect::<Vec<_>>().join("\n"));
    assert!(console.contains(&format!("guest: {} attached", each * 16)), "{console}");
}
