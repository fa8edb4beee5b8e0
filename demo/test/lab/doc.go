// Package lab boots Debian kernels under QEMU and runs commands in them.
//
// tcpbye must give the same verdict on every kernel that it supports, with and
// without certain hooks. The lab makes those kernels available on any Linux
// machine, as commands: what runs in the guest is the host's own programs on
// the host's own files, and what it prints and returns comes back.
//
// # The guest
//
//   - The kernel is Debian's, of the generic flavour, taken from its package
//     without installing that. The newest of each series is used; see Kernels.
//     It is emulated, never run with KVM, which exists on many machines where
//     it boots nothing.
//   - The root is the host's root over 9p, read-only, under an overlay in
//     memory. Every file has the path it has on the host, /tmp too; /proc, /sys,
//     /dev, /dev/pts, /dev/shm, /run, tracefs, bpf, and cgroup2 are the guest's
//     own. What the guest has read it caches: it need not see what the host
//     changes later. A guest of another architecture has only its initramfs.
//   - The directory Config.Out is mounted writable at its own path, which
//     LAB_OUT names. What is written there is on the host when Run returns.
//   - The command runs as root, in a session of its own, with descriptors 0, 1
//     and 2, no core files, in the host's working directory. What it leaves
//     running ends with it.
//   - There is lo, with 127.0.0.1 and ::1, and no other interface. The modules
//     tcp_diag, inet_diag, unix_diag, veth, sch_netem, tun and dummy are loaded;
//     one that a kernel lacks is told on Config.Progress. modprobe works, and
//     so does the kernel's loading on demand.
//   - A panic or an oops ends the guest, and Run with an error that shows the
//     console. So do a timeout and the end of Run's context.
//
// # Rules of this package
//
//   - Results come over a virtio-serial port (package wire); the console is for
//     people, after a failure.
//   - The host's package state is not touched: kernels are found by an apt with
//     a configuration, lists and cache of its own, on the mirrors that the
//     machine's apt uses. Only EnsureHost installs, and says so.
//   - No QEMU outlives its Run, nor the process.
//   - The network is used when a kernel is not in the cache, or on request.
//   - The cache (CacheDir) may be deleted when no guest runs. It is safe to use
//     from several processes.
//
// # Speed
//
// Emulated time is spent with care. Booting the decompressed kernel (through
// PVH) in place of the packaged one is worth 5 s of 8; the kernel's arguments
// are worth another 2. On two CPUs of 2.4 GHz with little else to do a command
// starts after 4 to 5 s, on busy ones after 10. The guest is switched off, not shut down: when the
// command has ended and its results are written, QEMU is killed.
package lab
