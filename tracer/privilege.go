package tracer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Capability is a number of capabilities(7).
type Capability int

// capabilityNames are those that have to do with tracing, in the order in which
// they matter.
var capabilityNames = []struct {
	c    Capability
	name string
	what string // it is for
}{
	{unix.CAP_BPF, "CAP_BPF", "load programs"},
	{unix.CAP_PERFMON, "CAP_PERFMON", "attach them"},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", "lock memory, before 5.11"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "tell other users' programs apart"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "read tracefs, and other users' files for symbols"},
	{unix.CAP_SYSLOG, "CAP_SYSLOG", "read kernel addresses"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "mount tracefs, enter network namespaces"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "destroy sockets, in demos only"},
}

// String is the capability's name.
func (c Capability) String() string {
	for _, n := range capabilityNames {
		if n.c == c {
			return n.name
		}
	}
	return fmt.Sprintf("capability %d", int(c))
}

// capabilitySets is what capget(2) fills: 64 bits in two halves.
type capabilitySets [2]unix.CapUserData

func readCapabilities() (capabilitySets, error) {
	var sets capabilitySets
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &sets[0]); err != nil {
		return sets, fmt.Errorf("read this process's capabilities: %w", err)
	}
	return sets, nil
}

func (s *capabilitySets) effective(c Capability) bool {
	return s[c/32].Effective&(1<<(c%32)) != 0
}

// missingCapabilities lists those without which nothing can be traced, as far
// as this process lacks them. CAP_SYS_ADMIN stands for both.
func missingCapabilities() ([]Capability, error) {
	sets, err := readCapabilities()
	if err != nil || sets.effective(unix.CAP_SYS_ADMIN) {
		return nil, err
	}
	var missing []Capability
	for _, c := range []Capability{unix.CAP_BPF, unix.CAP_PERFMON} {
		if !sets.effective(c) {
			missing = append(missing, c)
		}
	}
	return missing, nil
}

// A PrivilegeError says which capabilities a user lacks, and how to have them.
type PrivilegeError struct {
	Missing []Capability
	Err     error // what the kernel refused; nil when it was not even asked
}

func (e *PrivilegeError) Error() string {
	var names []string
	for _, c := range e.Missing {
		names = append(names, c.String())
	}
	s := fmt.Sprintf("this user may not trace: %s missing; run tcpbye as root, or once: %s",
		strings.Join(names, " and ")+map[bool]string{true: " are", false: " is"}[len(names) > 1], setcapLine())
	if e.Err != nil {
		s = e.Err.Error() + "; " + s
	}
	return s
}

func (e *PrivilegeError) Unwrap() error { return e.Err }

// setcapLine is the command that lets this program trace without root.
func setcapLine() string {
	self, err := os.Executable()
	if err != nil {
		self = "tcpbye"
	}
	caps := "cap_bpf,cap_perfmon,cap_sys_ptrace"
	if countsLockedMemory() {
		caps += ",cap_sys_resource"
	}
	return fmt.Sprintf("sudo setcap %s+ep %s", caps, self)
}

// countsLockedMemory says whether BPF memory counts as locked memory, of which
// a user may have little: so before 5.11, as old as a helper that is looked for.
func countsLockedMemory() bool {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return false
	}
	var ids *btf.Enum
	if err := spec.TypeByName("bpf_func_id", &ids); err != nil {
		return false
	}
	return !slices.ContainsFunc(ids.Values, func(v btf.EnumValue) bool { return v.Name == "BPF_FUNC_get_current_task_btf" })
}

// mayTrace says, before anything is loaded, what this user lacks, and removes
// the limit on locked memory where BPF counts against it.
func mayTrace() error {
	missing, err := missingCapabilities()
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &PrivilegeError{Missing: missing}
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		err = fmt.Errorf("raise the limit on locked memory, against which this kernel counts BPF: %w", err)
		if errors.Is(err, unix.EPERM) {
			return &PrivilegeError{Missing: []Capability{unix.CAP_SYS_RESOURCE}, Err: err}
		}
		return err
	}
	return nil
}

// explain adds to a refusal what this user lacks.
func explain(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	if inUserNamespace() {
		return fmt.Errorf("%w; this process is in a user namespace, whose capabilities do not allow tracing: run tcpbye outside of it", err)
	}
	return err
}

// inUserNamespace says whether user ids are mapped: only the initial
// namespace's capabilities count for BPF.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295"
}

// kept are the capabilities that a running trace still needs: CAP_BPF to ask
// for losses, the others to look at the processes that act.
var kept = []Capability{unix.CAP_BPF, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}

// ErrPrivilegesKept is why DropPrivileges did nothing: a program that is linked
// with C cannot change all its threads.
var ErrPrivilegesKept = errors.New("this build (with cgo) cannot drop capabilities")

// DropPrivileges gives up, for the whole process and for good, every capability
// that a running trace does not need, except also. To be called once everything
// is attached, and once the command that is traced was started: what is executed
// later gets no more privileges from a file (PR_SET_NO_NEW_PRIVS).
func DropPrivileges(also ...Capability) error {
	sets, err := readCapabilities()
	if err != nil {
		return err
	}
	var mask [2]uint32
	for _, c := range slices.Concat(kept, also) {
		mask[c/32] |= 1 << (c % 32)
	}
	for i := range sets {
		sets[i].Permitted &= mask[i]
		sets[i].Effective &= mask[i]
		sets[i].Inheritable &= mask[i]
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// Capabilities are a thread's own; Go has many.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&sets[0])), 0)
	switch errno {
	case 0:
	case syscall.ENOTSUP:
		return ErrPrivilegesKept
	default:
		return fmt.Errorf("give up capabilities: %w", errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("give up new privileges: %w", errno)
	}
	return nil
}
