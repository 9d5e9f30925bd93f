//! What is known to go wrong with `/dev/nbdN`, done to devices in a guest: src/doc/architecture.md has the list.

use crate::attach::{CAMPAIGN, console_of, guest};

/// Four devices are written when the server dies, and its supervisors with it. The next server finds all of them.
#[test]
#[ignore = "a minute of a guest; see tests/CAMPAIGNS.md"]
fn four_devices_are_adopted_at_once() {
    let script = r#"
names="one two three four"
for name in $names; do truncate -s 8M /d/$name.img; EXPORTS="$EXPORTS $name=/d/$name.img --attach $name"; done
start
for name in $names; do becomes $name 16384; done
all() { for name in $names; do echo "$name $(of $name) $(cat /sys/block/$(of $name)/backend)"; done; }
before=$(all)
workers=
for name in $names; do
  /bin/fio --name=$name --filename=/dev/$(of $name) --rw=randwrite --bs=4k --direct=1 --thread --ioengine=libaio --iodepth=8 --size=4m \
    --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=SECONDS >/d/fio.$name 2>&1 &
  workers="$workers $!"
done
round=0
while [ $round -lt ROUNDS ]; do
  sleep 2
  was=$(for name in $names; do supervisor $(of $name); done)
  crash
  for pid in $was; do
    i=0
    while lives $pid 2>/dev/null; do sleep 0.1; i=$((i + 1)); [ $i -lt 100 ] || { failed "a supervisor stays"; break; }; done
  done
  start
  for name in $names; do becomes $name 16384; done
  round=$((round + 1))
done
for worker in $workers; do wait $worker || { failed fio; cat /d/fio.*; }; done
[ "$(all)" = "$before" ] || failed "they were $before and are $(all)"
[ $(ls -d /sys/block/nbd*/pid | wc -l) = 4 ] || failed "other devices: $(/bin/ringnbd devices)"
/bin/ringnbd devices
kill $server; wait $server || failed "the server's end"
[ "$(/bin/ringnbd devices --json | tr -d ' \n')" = '{"devices":[]}' ] || failed "left: $(/bin/ringnbd devices)"
EXPORTS="one=/d/one.img"
start
echo guest: four were adopted $round times
"#;
    let rounds: u64 = std::env::var("RINGNBD_RESTARTS").map_or(2, |rounds| rounds.parse().expect("a number"));
    let script =
        script.replace("ROUNDS", &rounds.to_string()).replace("SECONDS", &(rounds * 8 + 8).to_string());
    let Some(console) = console_of(guest("", &script).deadline(CAMPAIGN)) else { return };
    assert!(console.contains(&format!("guest: four were adopted {rounds} times")), "{console}");
}

/// A free device that somebody has open is `EBUSY`, as while udev looks at it: another one is taken, or it is waited for.
#[test]
fn a_free_device_that_is_open_is_busy() {
    let script = r#"
truncate -s 4M /d/one.img
truncate -s 4M /d/two.img
start
sleep 1000 </dev/nbd0 &
opener=$!
until readlink /proc/$opener/fd/0 | grep -q nbd0; do sleep 0.1; done
device=$(/bin/ringnbd attach $(unix one)) || failed attach
[ $device = /dev/nbd1 ] || failed "it is $device"
must_not /bin/ringnbd attach --device /dev/nbd0 $(unix two)
must_not /bin/ringnbd attach --ioctl --device /dev/nbd1 $(unix two)
/bin/ringnbd attach --device /dev/nbd0 $(unix two) >/d/name &
attaching=$!
sleep 1
kill $opener
wait $attaching || failed "it was not waited for"
[ "$(cat /d/name)" = /dev/nbd0 ] || failed "it is $(cat /d/name)"
must /bin/ringnbd detach /dev/nbd0
must /bin/ringnbd detach $device
echo guest: waited
"#;
    let Some(console) = console_of(guest("one=/d/one.img two=/d/two.img", script)) else { return };
    assert!(console.contains("guest: waited") && console.contains("/dev/nbd0 is in use"), "{console}");
}

/// A server that is stopped takes nothing and answers nothing for longer than the timeout: connections end, by a request without a reply or
/// (before Linux 6.14) with `EAGAIN` of a socket that is full. No request is lost when it goes on, and the device can be detached.
#[test]
#[ignore = "a minute of a guest; see tests/CAMPAIGNS.md"]
fn a_server_stops_for_longer_than_the_timeout() {
    let script = r#"
truncate -s 32M /d/one.img
start
ended() { dmesg | grep -c -E 'nbd[0-9]+: .*([Tt]imed out|result -11)'; }
for connections in 2 1; do
  device=$(/bin/ringnbd attach --connections $connections --timeout 2s $(unix one)) || failed attach
  /bin/fio --name=attach --filename=$device --rw=randwrite --bs=128k --direct=1 --thread --ioengine=libaio --iodepth=32 --size=16m \
    --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --time_based --runtime=20 >/d/fio 2>&1 &
  fio=$!
  sleep 3
  before=$(ended)
  kill -STOP $server
  i=0
  until [ $(($(ended) - before)) -ge $connections ]; do
    sleep 0.5; i=$((i + 1))
    [ $i -lt 120 ] || { failed "no connection ended"; break; }
  done
  kill -CONT $server
  wait $fio || { failed "fio with $connections connections"; cat /d/fio; }
  must /bin/ringnbd detach $device
done
dmesg | grep -E 'nbd[0-9]+: ' | cut -c 1-100 | sort | uniq -c | sort -rn | head -n 12
echo guest: went on
"#;
    let Some(console) = console_of(guest("one=/d/one.img", script).deadline(CAMPAIGN)) else { return };
    assert!(console.contains("guest: went on"), "{console}");
}

/// As kernels without netlink have it: the device is its process', and goes with it or with its last connection.
#[test]
fn attaches_by_ioctl() {
    let script = r#"
truncate -s 64M /d/one.img
start
sockets() { ls -l /proc/$server/fd | grep -c socket: ; }
is_gone() {
  i=0
  until [ $(cat /sys/block/$(basename $1)/size) = 0 ] && [ ! -e /sys/block/$(basename $1)/pid ]; do
    sleep 0.1; i=$((i + 1))
    [ $i -lt 100 ] || { failed "$1 is left: $(/bin/ringnbd devices)"; break; }
  done
}
must_not /bin/ringnbd attach --ioctl $(unix none)
before=$(sockets)
device=$(/bin/ringnbd attach --ioctl --connections 2 $(unix one)) || failed attach
must /bin/mke2fs -q -t ext4 $device
must mount -t ext4 $device /mnt
dd if=/dev/urandom of=/mnt/file bs=64k count=100 2>/dev/null
(cd /mnt; sha256sum file > sums)
# Netlink takes no device that is held, and others are detached by what they carry.
must_not /bin/ringnbd attach --device $device $(unix one)
must_not /bin/ringnbd attach --ioctl --device $device $(unix one)
must_not /bin/ringnbd detach $(unix one)
must_not /bin/ringnbd detach $device
/bin/ringnbd devices
/bin/ringnbd devices --json | grep -q "\"supervisor\": $(supervisor $device)" || failed "its process is not shown"
must umount /mnt
must /bin/ringnbd detach $device
is_gone $device
i=0
until [ $(sockets) = $before ]; do
  sleep 0.1; i=$((i + 1))
  [ $i -lt 100 ] || { failed "the server had $before sockets and has $(sockets)"; break; }
done
device=$(/bin/ringnbd attach --ioctl --device /dev/nbd5 --read-only $(tcp one)) || failed attach
[ $device = /dev/nbd5 ] || failed "it is $device"
dd if=/dev/zero of=$device bs=4k count=1 2>/dev/null && failed "a read-only device was written"
kill -9 $(supervisor $device)
is_gone $device
device=$(/bin/ringnbd attach --ioctl $(unix one)) || failed attach
held=$(supervisor $device)
crash
is_gone $device
i=0
while lives $held; do sleep 0.1; i=$((i + 1)); [ $i -lt 100 ] || { failed "its process is left"; break; }; done
start
device=$(/bin/ringnbd attach $(unix one)) || failed attach
must mount -t ext4 $device /mnt
(cd /mnt; must sha256sum -c sums)
must umount /mnt
must /bin/e2fsck -fn $device
must /bin/ringnbd detach $device
echo guest: held
"#;
    let Some(console) = console_of(guest("one=/d/one.img", script)) else { return };
    assert!(console.contains("guest: held"), "{console}");
    assert!(console.contains("is in use: unmount it"), "{console}");
}
