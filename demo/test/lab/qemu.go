package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/test/lab/wire"
)

// machine is what QEMU is told.
type machine struct {
	arch      string // Go's name
	kernel    string
	initramfs string
	append    string
	memoryMiB int
	smp       int
	icount    bool
	portFD    int    // QEMU's descriptor of the connected socket behind the port
	hostRoot  string // the directory that is the guest's read-only root; empty: none
	out       string // the directory that is the share for results; empty: none
}

// program returns the name of the emulator.
func (m machine) program() string {
	if m.arch == "arm64" {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86_64"
}

// args returns the emulator's arguments. It always emulates: /dev/kvm may
// exist and still boot nothing. (KVM inside a virtual machine that itself is
// not meant to nest hangs or stops at an MSR.)
func (m machine) args() []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-monitor", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-m", strconv.Itoa(m.memoryMiB),
		"-kernel", m.kernel,
		"-initrd", m.initramfs,
	}
	add := func(list ...string) { args = append(args, list...) }
	console, machineType, cpu, archArgs := "ttyS0", "pc,usb=off,smbus=off,hpet=off", "max", x86Args
	if m.arch == "arm64" {
		// Pointer authentication as the architecture defines it takes half of
		// an emulated kernel's time; any other algorithm is allowed.
		console, machineType, cpu, archArgs = "ttyAMA0", "virt", "max,pauth-impdef=on", ""
	}
	add("-machine", machineType, "-cpu", cpu)
	if m.icount {
		// Guest time is the number of instructions executed: one per ns.
		add("-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off")
	} else {
		add("-accel", "tcg,thread=multi", "-smp", strconv.Itoa(m.smp))
	}
	add("-append", strings.Join(strings.Fields("console="+console+" "+kernelArgs+" "+archArgs+" "+m.append), " "))
	add("-device", "virtio-serial-pci",
		"-chardev", "socket,id=lab,fd="+strconv.Itoa(m.portFD),
		"-device", "virtserialport,chardev=lab,name="+wire.Port)
	if m.hostRoot != "" {
		add("-fsdev", "local,id=host,security_model=none,readonly=on,multidevs=remap,path="+escapeComma(m.hostRoot),
			"-device", "virtio-9p-pci,fsdev=host,mount_tag="+wire.HostTag)
	}
	if m.out != "" {
		add("-fsdev", "local,id=out,security_model=none,multidevs=remap,path="+escapeComma(m.out),
			"-device", "virtio-9p-pci,fsdev=out,mount_tag="+wire.OutTag)
	}
	return args
}

// kernelArgs are for every guest. A panic or an oops ends it (with
// -no-reboot), and so does a CPU that does nothing else for a minute, which busy
// hosts do not cause. The rest is for speed. mitigations: against leaks between
// processes that trust each other here. cryptomgr.notests: self-tests take half
// a second.
const kernelArgs = "panic=-1 oops=panic softlockup_panic=1 watchdog_thresh=30 quiet mitigations=off cryptomgr.notests"

// x86Args are for amd64, for speed. tsc=reliable: emulated CPUs have one TSC,
// but the kernel's watchdog takes the emulator's pauses for drift and falls back
// to the ACPI timer, each reading of which leaves the guest. no_timer_check:
// pauses again. acpi=noirq: ACPI takes a fifth of a second for the interrupt of
// each device, and the devices here use none (they have MSI-X).
const x86Args = "tsc=reliable no_timer_check acpi=noirq"

// escapeComma doubles commas, which is how QEMU's option lists hold them.
func escapeComma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// emulator is a running QEMU.
type emulator struct {
	port    net.Conn // the host's end of the port
	console *tail
	stderr  *tail
	process *os.Process
	ended   chan struct{} // closed when QEMU has ended
	err     error         // how; valid after ended
}

// portFD is the first of exec.Cmd's ExtraFiles.
const portFD = 3

// startEmulator starts QEMU. It is in a process group of its own, so that a
// terminal's ^C reaches the lab only, which then ends it; should the lab die,
// the kernel ends QEMU.
func startEmulator(m machine) (*emulator, error) {
	program, err := findProgram(m.program())
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for the guest's port: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "lab port"), os.NewFile(uintptr(pair[1]), "lab port")
	defer theirs.Close()
	port, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	m.portFD = portFD
	e := &emulator{port: port, console: &tail{size: 64 << 10}, stderr: &tail{size: 16 << 10}, ended: make(chan struct{})}
	cmd := exec.Command(program, m.args()...)
	cmd.Stdout, cmd.Stderr = e.console, e.stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig fires when the thread that started QEMU ends, so that
		// thread must live as long as QEMU.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		e.err = cmd.Wait()
		close(e.ended)
	}()
	if err := <-started; err != nil {
		port.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	e.process = cmd.Process
	return e, nil
}

// stop ends QEMU, whatever it does, and waits until it is gone.
func (e *emulator) stop() {
	select {
	case <-e.ended:
	default:
		e.process.Kill() // it has no children
		<-e.ended
	}
	e.port.Close()
}

// errPortClosed is the end of the port before the end of the command.
var errPortClosed = errors.New("the guest closed the lab's port")

// errOutput marks an error of the caller's writers.
var errOutput = errors.New("pass the guest's output on")

// converse feeds the command's standard input and takes the guest's frames
// until the command has ended.
func (e *emulator) converse(cfg Config, take func(wire.Kind, []byte) error) error {
	frames := wire.NewReader(e.port)
	out := map[wire.Kind]io.Writer{wire.Stdout: cfg.Stdout, wire.Stderr: cfg.Stderr}
	for {
		kind, body, err := frames.Next()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
				return errPortClosed
			}
			return fmt.Errorf("read from the guest: %w", err)
		}
		if err := take(kind, body); err != nil {
			return err
		}
		switch kind {
		case wire.Started:
			if cfg.Stdin != nil {
				// It ends with the port or with the input. An input that
				// blocks holds the goroutine, but nothing waits for that.
				go feed(wire.NewWriter(e.port), cfg.Stdin)
			}
		case wire.Stdout, wire.Stderr:
			if w := out[kind]; w != nil {
				if _, err := w.Write(body); err != nil {
					return fmt.Errorf("%w: %w", errOutput, err)
				}
			}
		case wire.Exit:
			return nil
		case wire.NotFound:
			var n wire.NotFoundBody
			if err := json.Unmarshal(body, &n); err != nil {
				return err
			}
			return &StartError{Errno: syscall.Errno(n.Errno), Text: n.Text}
		case wire.Fail:
			return fmt.Errorf("set up the guest: %s", body)
		}
	}
}

// feed sends the input to the guest, and its end.
func feed(w *wire.Writer, input io.Reader) {
	if _, err := io.Copy(w.Stream(wire.Stdin), input); err == nil {
		w.Write(wire.Stdin, nil)
	}
}

// state says how QEMU ended.
func (e *emulator) state() string {
	if e.err != nil {
		return e.err.Error()
	}
	return "exit status 0"
}

// maxLastLines is enough for an oops and the panic that follows it, each with
// its stack.
const maxLastLines = 160

// lastWords returns the end of the console and of QEMU's own messages, for an
// error's text.
func (e *emulator) lastWords() string {
	var b strings.Builder
	for _, part := range []struct{ title, text string }{
		{"QEMU said", e.stderr.String()},
		{"the console's end", e.console.String()},
	} {
		if part.text != "" {
			lines := strings.Split(part.text, "\n")
			lines = lines[max(0, len(lines)-maxLastLines):]
			fmt.Fprintf(&b, "\n--- %s:\n%s", part.title, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}
