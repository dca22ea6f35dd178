#!/bin/bash
# ublk_memory.sh SERVER [SCENARIO...]
#
# Tries the ublk front end against the kernel it runs on, as root, with the example `ublk_memory` (SERVER: its path) in
# place of the engine. Needs fio, e2fsprogs, util-linux. Everything it makes is below /dev/shm and /run. Prints one line
# a scenario; exits 1 at the first that fails. Scenarios: files sectors kill mounted_kill leave resize others depth.
set -u
SERVER=$(realpath "$1"); shift
WORK=$(mktemp -d /dev/shm/ublk-memory.XXXXXX)
MOUNT=$(mktemp -d /run/ublk-memory.XXXXXX)
declare -A PID IN OUT
cd "$WORK" || exit 1 # fio leaves files where it runs
trap 'umount -l "$MOUNT" 2>/dev/null; for p in "${PID[@]}"; do kill -9 "$p" 2>/dev/null; done; rm -rf "$WORK" "$MOUNT"' EXIT

die() { echo "FAILED: $*"; tail -n 20 "$WORK"/*.out "$WORK"/*.err 2>/dev/null; dmesg | tail -n 15; exit 1; }
expect() { [ "$1" = "$2" ] || die "${3:-}: expected '$1', got '$2'"; }

# start NAME ARGS...: sets DEV and HOW
start() {
    local name=$1; shift
    rm -f "$WORK/$name.in"; mkfifo "$WORK/$name.in"; : > "$WORK/$name.out"
    "$SERVER" "$WORK/$name.data" "$@" < "$WORK/$name.in" > "$WORK/$name.out" 2>> "$WORK/$name.err" &
    PID[$name]=$!; OUT[$name]=$WORK/$name.out
    exec {IN[$name]}> "$WORK/$name.in"
    for _ in $(seq 600); do
        if grep -q ^serving "${OUT[$name]}"; then read -r _ DEV HOW < "${OUT[$name]}"; return 0; fi
        kill -0 "${PID[$name]}" 2>/dev/null || return 1
        sleep 0.1
    done
    die "$name did not come up"
}

# tell NAME WORDS...: prints the answer
tell() {
    local name=$1; shift
    local had; had=$(grep -c -E '^(ok|error)' "${OUT[$name]}")
    echo "$*" >&"${IN[$name]}"
    for _ in $(seq 1200); do
        if [ "$(grep -c -E '^(ok|error)' "${OUT[$name]}")" -gt "$had" ]; then grep -E '^(ok|error)' "${OUT[$name]}" | tail -1; return; fi
        kill -0 "${PID[$name]}" 2>/dev/null || { grep -E '^(ok|error)' "${OUT[$name]}" | tail -n +$((had + 1)); return; }
        sleep 0.1
    done
    echo "no answer"
}

stop() {
    expect ok "$(tell "$1" stop)" "stopping $1"
    wait "${PID[$1]}"; exec {IN[$1]}>&-
    [ -e "$DEV" ] && die "$DEV is still there"
    [ -z "$(ls /sys/class/ublk-char)" ] || [ -n "${OTHERS:-}" ] || die "a character device is left"
    rm -f "$WORK/$1.data"
}

slay() { kill -9 "${PID[$1]}"; wait "${PID[$1]}" 2>/dev/null; exec {IN[$1]}>&-; }

verify() { # DEVICE ARGS...
    local device=$1; shift
    fio --name=verify --filename="$device" --allow_file_create=0 --ioengine=io_uring --direct=1 --iodepth=32 --verify=crc32c \
        --verify_fatal=1 --verify_state_save=0 --rw=randrw --rwmixread=30 --fsync=64 --norandommap=0 --output="$WORK/fio.txt" "$@" \
        || { cat "$WORK/fio.txt"; die "fio on $device"; }
}

files() {
    start a --size $((512 << 20)); expect new "$HOW"
    mkfs.ext4 -q -F "$DEV" || die mkfs
    mount "$DEV" "$MOUNT" || die mount
    mkdir "$MOUNT/tree"; cp -r /usr/lib/python3 "$MOUNT/tree/" 2>/dev/null; head -c 60M /dev/urandom > "$MOUNT/big"; cp "$MOUNT/big" "$WORK/big"
    case $(tell a stop) in *"is in use"*"$MOUNT"*) ;; *) die "a mounted device was not refused by name: $(tail -1 "${OUT[a]}")";; esac
    sync; fstrim "$MOUNT" || die fstrim
    umount "$MOUNT"; echo 3 > /proc/sys/vm/drop_caches
    e2fsck -fn "$DEV" > "$WORK/fsck.txt" 2>&1 || { cat "$WORK/fsck.txt"; die fsck; }
    mount "$DEV" "$MOUNT"; cmp "$MOUNT/big" "$WORK/big" || die "the file has changed"
    diff -r /usr/lib/python3 "$MOUNT/tree/python3" > /dev/null || die "the tree has changed"
    rm "$WORK/big"; umount "$MOUNT"
    tell a counts > /dev/null & sleep 0.3; wait $!
    stop a
}

sectors() {
    for block in 512 4096; do
        start a --size $((128 << 20)) --block "$block"
        expect "$block" "$(blockdev --getss "$DEV")" "logical block"
        expect 4096 "$(blockdev --getpbsz "$DEV")" "physical block"
        expect 65536 "$(blockdev --getioopt "$DEV")" "optimal size"
        expect "write back" "$(cat "/sys/block/${DEV#/dev/}/queue/write_cache")" "cache"
        expect 1 "$(cat "/sys/block/${DEV#/dev/}/queue/fua")" "FUA"
        verify "$DEV" --bsrange="$block-1M" --blockalign="$block" --size=128M --io_size=192M --numjobs=1
        fio --name=fua --filename="$DEV" --allow_file_create=0 --ioengine=psync --direct=1 --sync=dsync --rw=randwrite --bs="$block" \
            --number_ios=200 --verify=crc32c --verify_state_save=0 --output="$WORK/fio.txt" || { cat "$WORK/fio.txt"; die "fio with O_DSYNC"; }
        echo counts >&"${IN[a]}"; sleep 0.3
        grep -q 'Write { fua: true }' "${OUT[a]}" || die "no FUA write was seen"
        head -c 8M /dev/urandom | dd of="$DEV" bs=1M oflag=direct status=none
        blkdiscard -o 1M -l 2M "$DEV" || die blkdiscard
        blkdiscard -z -o 4M -l 1M "$DEV" || die "blkdiscard -z"
        cmp -n $((2 << 20)) -i $((1 << 20)):0 "$DEV" /dev/zero || die "a discarded range does not read as zeros"
        cmp -n $((1 << 20)) -i $((4 << 20)):0 "$DEV" /dev/zero || die "a zeroed range does not read as zeros"
        cmp -s -n 4096 -i $((3 << 20)):0 "$DEV" /dev/zero && die "a discard went too far"
        dd if=/dev/zero of="$DEV" bs=4096 seek=$((128 << 8)) count=1 oflag=direct status=none 2>/dev/null && die "a write beyond the end"
        stop a
    done
}

# SIGKILL of the server under fio verify, several times
kill_under_load() {
    start a --size $((128 << 20)); expect new "$HOW"
    local device=$DEV
    fio --name=verify --filename="$device" --allow_file_create=0 --ioengine=io_uring --direct=1 --iodepth=32 --verify=crc32c \
        --verify_fatal=1 --verify_state_save=0 --rw=randrw --rwmixread=30 --bsrange=4k-256k --size=128M --io_size="${LOAD:-1500M}" --fsync=32 \
        --output="$WORK/fio.txt" & local fio=$! kills=0
    for _ in $(seq "${KILLS:-5}"); do
        sleep 0.$((RANDOM % 9 + 1))
        builtin kill -0 $fio 2>/dev/null || break
        slay a; kills=$((kills + 1))
        start a || die "the device was not recovered"
        expect "$device recovered" "$DEV $HOW"
    done
    wait $fio || { cat "$WORK/fio.txt"; die "fio after $kills kills"; }
    [ "$kills" -ge 2 ] || die "fio ended before the second kill"
    grep -E 'err=|WRITE:|READ:' "$WORK/fio.txt" | sed 's/^/    /'
    echo "    $kills kills"
    stop a
}

mounted_kill() {
    start a --size $((256 << 20)); local device=$DEV
    mkfs.ext4 -q -F "$DEV" && mount -o errors=remount-ro "$DEV" "$MOUNT" || die mount
    (for i in $(seq 200); do head -c 200K /dev/urandom > "$MOUNT/$i" && sync -f "$MOUNT/$i" || exit 1; sha256sum "$MOUNT/$i"; done > "$WORK/sums") & local writer=$!
    for _ in 1 2 3; do
        sleep 0.5; slay a; sleep 0.3
        start a || die "not recovered"
        expect "$device recovered" "$DEV $HOW"
    done
    wait $writer || die "writing failed"
    umount "$MOUNT"; echo 3 > /proc/sys/vm/drop_caches; mount "$DEV" "$MOUNT"
    expect 200 "$(wc -l < "$WORK/sums")" files
    sha256sum --quiet -c "$WORK/sums" || die "a file has changed"
    umount "$MOUNT"
    e2fsck -fn "$DEV" > "$WORK/fsck.txt" 2>&1 || { cat "$WORK/fsck.txt"; die fsck; }
    stop a
}

leave() {
    start a --size $((64 << 20)); local device=$DEV
    fio --name=verify --filename="$device" --allow_file_create=0 --ioengine=io_uring --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
        --rw=randrw --bs=4k --size=64M --io_size=200M --output="$WORK/fio.txt" & local fio=$!
    sleep 0.5
    expect ok "$(tell a leave)" leaving; wait "${PID[a]}"; exec {IN[a]}>&-
    start a || die "not recovered"
    expect "$device recovered" "$DEV $HOW"
    wait $fio || { cat "$WORK/fio.txt"; die "fio over a hand-over"; }
    stop a
}

resize() {
    start a --size $((64 << 20))
    local answer; answer=$(tell a resize $((96 << 20)))
    case $answer in
        ok) expect $((96 << 20)) "$(blockdev --getsize64 "$DEV")" size
            verify "$DEV" --bs=16k --size=96M --io_size=128M
            expect ok "$(tell a resize $((32 << 20)))"; expect $((32 << 20)) "$(blockdev --getsize64 "$DEV")" size
            # the size changes while nobody serves: the recovered device follows
            slay a; truncate -s 48M "$WORK/a.data"; start a || die "not recovered"
            expect recovered "$HOW"; expect $((48 << 20)) "$(blockdev --getsize64 "$DEV")" "size after recovery";;
        *"cannot resize"*) echo "    this kernel does not resize";;
        *) die "resize: $answer";;
    esac
    case $(tell a resize 12345) in error*) ;; *) die "an odd size was taken";; esac
    stop a
}

# devices of another pool are left alone; one namespace has one server
others() {
    OTHERS=1
    start a --size $((64 << 20)); local first=$DEV
    start b --pool 2 --size $((64 << 20)); local second=$DEV
    [ "$first" = "$second" ] && die "two pools share a device"
    start c --size $((64 << 20)) && die "a second server of one namespace"
    grep -q "is a device of this namespace and process ${PID[a]} serves it" "$WORK/c.err" || die "the server is not named"
    exec {IN[c]}>&-; unset 'PID[c]'
    slay a; slay b
    start b --pool 2 || die "not recovered"
    expect "$second recovered" "$DEV $HOW"
    start a || die "not recovered"
    expect "$first recovered" "$DEV $HOW"
    DEV=$first; stop a
    unset OTHERS
    # forced: whoever uses the device gets errors, and it goes
    DEV=$second; exec {user}< "$second"
    expect ok "$(tell b force)" force; wait "${PID[b]}"; exec {IN[b]}>&- {user}<&-
    [ -z "$(ls /sys/class/ublk-char)" ] || die "a character device is left"
    rm -f "$WORK/b.data"
}

# other shapes; a recovered device keeps its own
depth() {
    start a --size $((64 << 20)) --depth 1 --io-bytes 65536
    verify "$DEV" --bsrange=4k-1M --size=64M --io_size=64M
    slay a
    start a --depth 64 --io-bytes 1048576 || die "not recovered"
    expect recovered "$HOW"; expect 64 "$(cat "/sys/block/${DEV#/dev/}/queue/max_hw_sectors_kb")" "largest request"
    verify "$DEV" --bsrange=4k-1M --size=64M --io_size=32M
    stop a
    start a --size $((64 << 20)) --queues 4 --depth 256 --io-bytes 1048576
    verify "$DEV" --bsrange=4k-1M --size=64M --io_size=128M --iodepth=128
    stop a
}

for scenario in "${@:-files sectors kill mounted_kill leave resize others depth}"; do
    for one in $scenario; do
        begun=$(date +%s.%N)
        case $one in kill) kill_under_load;; *) "$one";; esac
        printf '%-14s passed in %.1f s\n' "$one" "$(echo "$(date +%s.%N) - $begun" | bc 2>/dev/null || echo 0)"
    done
done
if dmesg | grep -E 'I/O error|BUG:|Call Trace|WARNING:' | grep -v beyond; then die "the kernel complained"; fi
