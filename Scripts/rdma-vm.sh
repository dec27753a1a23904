#!/usr/bin/env bash
# Runs a command on a machine with real RDMA verbs: a virtual one, with Soft-RoCE, over this machine's files.
#
#   Scripts/rdma-vm.sh COMMAND [ARGUMENT]...
#
# Inside: this machine's files read-only, /tmp, /var/tmp, /run and /dev/shm empty and private, and two network adapters
# as of two hosts on one cable: rxe0 on 10.77.0.1, rxe1 on 10.77.0.2. What the command writes to $LEGO_VM_OUT is in
# the directory of that name here afterwards. The exit status is the command's; 77 where there can be no such machine
# (which is said), 124 when the time is up.
#
#   LEGO_VM_SECONDS  hard deadline (600)      LEGO_VM_MEMORY  MiB (4096)      LEGO_VM_OUT  a directory (none)
#
# The processor is emulated, so that it runs where virtual machines cannot be nested: some ten times slower than this
# machine. It shows that the verbs path is right, not that it is fast.
source "$(dirname "$0")/lib.sh"
(($#)) || fail "needs a command to run, e.g. $0 ibv_devinfo"
readonly skipped=77
skip() {
  say "SKIPPED: no machine with RDMA verbs: $*" >&2
  exit $skipped
}

cache=$root/.build/rdma-vm
seconds=${LEGO_VM_SECONDS:-600} memory=${LEGO_VM_MEMORY:-4096}
[[ $(uname -m) == x86_64 ]] || skip "the kernel used is one for x86_64, this machine is $(uname -m)"
command -v apt-get >/dev/null || skip "QEMU and the kernel come from Debian's archive, and this is no Debian"

# Debian's kernel of the backports, the oldest that has both Soft-RoCE and UFFDIO_MOVE. Unpacked, never installed;
# apt's own configuration stays as it is.
fetch_kernel() {
  local private=$cache/apt options release
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [[ $release == bookworm ]] && release=bookworm-backports
  mkdir -p "$private"/{lists/partial,archives/partial,parts}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $release main" \
    >"$private/sources.list"
  options=(-q -o Dir::Etc::sourcelist="$private/sources.list" -o Dir::Etc::sourceparts="$private/parts"
    -o Dir::State::lists="$private/lists" -o Dir::Cache="$private" -o Dir::Cache::archives="$private/archives"
    -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >/dev/null 2>&1 || return 1
  local package
  package=$(apt-cache "${options[@]}" depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
  [[ $package ]] || return 1
  (cd "$private/archives" && apt-get "${options[@]}" download "$package" >/dev/null 2>&1) || return 1
  rm -rf "$cache/unpacked"
  dpkg -x "$private/archives/$package"_*.deb "$cache/unpacked" || return 1
  depmod -b "$cache/unpacked" "${package#linux-image-}" || return 1
  rm -rf "$cache/kernel" "$private"
  mv "$cache/unpacked" "$cache/kernel"
}

(install_packages qemu-system-x86 busybox-static cpio kmod iproute2 rdma-core ibverbs-providers) ||
  skip "QEMU cannot be installed"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -w "$seconds" 9 || skip "another such machine has been running for $seconds s"
compgen -G "$cache/kernel/boot/vmlinuz-*" >/dev/null || {
  say "fetching a kernel with Soft-RoCE"
  fetch_kernel || skip "its kernel cannot be had from Debian's archive"
}
image=$(compgen -G "$cache/kernel/boot/vmlinuz-*" | head -1)
version=${image##*/vmlinuz-}

# The lock is held: what is there belongs to a run that was killed.
work=$cache/run
rm -rf "$work"
mkdir "$work"
machine=''
clean_up() {
  if [[ $machine ]]; then
    # timeout passes it on.
    kill -TERM "$machine" 2>/dev/null || true
    wait "$machine" || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# The first programs inside: modules in an order that resolves, then this machine's files as the root.
tree=$work/tree
mkdir -p "$tree"/{bin,modules,proc,sys,dev,root} "$work/out"
cp "$(command -v busybox)" "$tree/bin/busybox"
for module in crc32_generic crc32_pclmul rdma_rxe rdma_ucm 9pnet_virtio 9p virtio_pci veth overlay fuse tcp_diag; do
  modprobe -d "$cache/kernel" -S "$version" --show-depends "$module" 2>/dev/null || true
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
  cp "$file" "$tree/modules/"
  basename "$file" >>"$tree/modules/order"
done
grep -q rdma_rxe "$tree/modules/order" || skip "the kernel $version has no Soft-RoCE"
cp "$root/Scripts/rdma-vm-guest.sh" "$tree/guest"
{
  printf 'cd %q\n' "$PWD"
  for name in ${!LEGO_*}; do
    [[ $name == LEGO_VM_* ]] || printf 'export %s=%q\n' "$name" "${!name}"
  done
  printf 'exec'
  printf ' %q' "$@"
  echo
} >"$tree/command"
# What the guest needs of its temporary directories, which are its own: a checkout may lie in one.
printf '%s\n' "$root" "$PWD" >"$tree/keep"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module || echo "cannot load $module"; done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /root || $b poweroff -f
$b mkdir /host
$b mount --bind /root /host
for part in dev proc sys; do $b mount --bind /$part /root/$part; done
for part in /tmp /run /var/tmp /dev/shm; do $b mkdir -p /root$part && $b mount -t tmpfs -o mode=1777 tmp /root$part; done
while IFS= read -r part; do
  case $part/ in /tmp/*|/run/*|/var/tmp/*|/dev/shm/*) $b mkdir -p "/root$part" && $b mount --bind "/host$part" "/root$part" ;; esac
done </keep
$b mkdir -p /root/run/lego-vm/out
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /root/run/lego-vm/out
$b cp /guest /command /root/run/lego-vm/
exec $b switch_root /root /bin/busybox sh -c "bash /run/lego-vm/guest; $b poweroff -f"
INIT
chmod +x "$tree/init"
(cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1 >"$work/initramfs")

# However this script ends, the machine ends too.
setpriv --pdeathsig TERM timeout -k 5 "$seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m "$memory" -smp 2 -nographic -no-reboot \
  -nodefaults -serial "file:$work/console" -serial stdio -kernel "$image" -initrd "$work/initramfs" \
  -append "console=ttyS0 panic=-1 quiet" -nic none \
  -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
  -device virtio-9p-pci,fsdev=host,mount_tag=host \
  -fsdev local,id=out,path="$work/out",security_model=none -device virtio-9p-pci,fsdev=out,mount_tag=out \
  </dev/null &
machine=$!
status=0
wait "$machine" || status=$?
machine=''
if [[ ${LEGO_VM_OUT:-} ]]; then
  mkdir -p "$LEGO_VM_OUT"
  cp -r "$work/out/." "$LEGO_VM_OUT/"
  cp "$work/console" "$LEGO_VM_OUT/console"
fi
((status != 124 && status != 137)) || {
  echo "$(basename "$0"): the command was not done after $seconds s" >&2
  exit 124
}
[[ -s $work/out/.status ]] || {
  tail -40 "$work/console" >&2
  fail "the machine ended before the command did; its last words are above"
}
exit "$(<"$work/out/.status")"
