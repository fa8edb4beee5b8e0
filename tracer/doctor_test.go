package tracer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// sick is an examination with something of everything.
func sick() *Examination {
	x := &Examination{
		Schema: ExaminationSchema, Health: Full, Kernel: "6.1.0-56-amd64", Arch: "amd64", Attach: RungKprobe,
		Ring: 8 << 20, Events: 321, Lost: Losses{Ring: 1},
	}
	x.fact("kernel", "lockdown", "confidentiality", false)
	x.fact("kernel", "tracefs", strings.Repeat("far too long for one line ", 6), false)
	x.fact("user", "CAP_BPF", "yes (load programs)", true)
	x.hooks([]Attachment{
		{Hook: event.HookSetState, Rung: RungTyped, Symbols: []string{"inet_sock_set_state"}, Lost: "everything"},
		{Hook: event.HookAbort, Rung: RungKprobe, Symbols: []string{"tcp_abort"}, Lost: "sock-destroy from other aborts"},
		{Hook: event.HookSendActiveReset, Rung: RungKprobe, Symbols: []string{"tcp_send_active_reset"}, Lost: "resets"},
		{Hook: event.HookClose, Lost: "who closed", Err: errors.Join(errors.New("fentry: refused"), errors.New("kprobe: refused"))},
		{Hook: event.HookAccept, Lost: "who accepted", Err: errors.New("fentry: refused")},
		{Hook: event.HookErrorReport, Minor: true, Err: fmt.Errorf("tp_btf: %w: the tracepoint inet_sk_error_report", errAbsent)},
	}, exercised{
		fired:  map[event.Hook]int{event.HookSetState: 40},
		failed: map[event.Hook]error{event.HookAbort: errors.New("SOCK_DESTROY: operation not permitted")},
	})
	x.advise(nil)
	return x
}

func TestHookHealth(t *testing.T) {
	x := sick()
	want := map[event.Hook]HookHealth{
		event.HookSetState: Fires, event.HookAbort: Unproven, event.HookSendActiveReset: Silent,
		event.HookClose: NoHook, event.HookAccept: NoHook, event.HookErrorReport: NotInTree,
	}
	for _, h := range x.Hooks {
		if h.State != want[h.Hook] {
			t.Errorf("%v is %q, want %q", h.Hook, h.State, want[h.Hook])
		}
	}
	if x.Health != Degraded {
		t.Errorf("health %q", x.Health)
	}
	if got := strings.Join(x.Missing, "|"); got != "fentry: refused|kprobe: refused" {
		t.Errorf("reasons: %q", got)
	}
}

// TestAbsentMinorHookIsNotDegraded: 5.10 has no inet_sk_error_report, and tells
// everything all the same.
func TestAbsentMinorHookIsNotDegraded(t *testing.T) {
	x := &Examination{Health: Full}
	x.hooks([]Attachment{{Hook: event.HookErrorReport, Minor: true, Err: errors.Join(fmt.Errorf("%w: a", errAbsent), fmt.Errorf("%w: b", errAbsent))}}, exercised{})
	if x.Health != Full {
		t.Errorf("health %q", x.Health)
	}
	x.hooks([]Attachment{{Hook: event.HookErrorReport, Minor: true, Err: errors.Join(fmt.Errorf("%w: a", errAbsent), unix.EPERM)}}, exercised{})
	if x.Health != Degraded {
		t.Errorf("a refusal: health %q", x.Health)
	}
}

func TestExaminationText(t *testing.T) {
	var b strings.Builder
	if err := sick().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for n, line := range strings.Split(text, "\n") {
		if len(line) > textWidth {
			t.Errorf("line %d has %d columns: %s", n+1, len(line), line)
		}
		if line != strings.TrimRight(line, " ") {
			t.Errorf("line %d ends in spaces: %q", n+1, line)
		}
	}
	flat := strings.Join(strings.Fields(text), " ")
	for _, want := range []string{
		"tcpbye works, but cannot tell everything, on Linux 6.1.0-56-amd64 (amd64), every hook by kprobe",
		"! __tcp_close missing cannot tell who closed",
		"attached, not exercised: SOCK_DESTROY: operation not permitted",
		"! tcp_send_active_reset kprobe 0 a loopback connection ran through it, and no event came",
		"inet_sk_error_report none not in this kernel",
		"lost: 1 for want of room",
		"boot without lockdown=confidentiality",
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

func TestExaminationJSON(t *testing.T) {
	var b strings.Builder
	if err := sick().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Schema, Health string
		Hooks          []struct {
			Hook, Rung, State string
			Symbols           []string
			Fired             int
		}
	}
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Schema != ExaminationSchema || got.Health != "degraded" || len(got.Hooks) != 6 {
		t.Fatalf("%+v", got)
	}
	if h := got.Hooks[0]; h.Hook != "inet_sock_set_state" || h.Rung != "tp_btf" || h.State != "fires" || h.Fired != 40 {
		t.Errorf("%+v", h)
	}
	if got.Hooks[3].Symbols == nil {
		t.Error("a missing hook's symbols are null, and not an empty list")
	}
}

func TestPrivilegeError(t *testing.T) {
	err := error(&PrivilegeError{Missing: []Capability{unix.CAP_BPF, unix.CAP_PERFMON}, Err: unix.EPERM})
	for _, want := range []string{"CAP_BPF and CAP_PERFMON are missing", "sudo setcap cap_bpf,cap_perfmon"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if !errors.Is(err, unix.EPERM) {
		t.Error("what the kernel refused is lost")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Error("more than one line")
	}
}
