package record

import (
	"encoding/json"
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Process is what was looked up of a process at a time. It holds from then on,
// until the next one with the same PID.
type Process struct {
	Time       time.Duration `json:"t_ns"`             // CLOCK_MONOTONIC
	PID        uint32        `json:"pid"`              // as in events
	NSPID      uint32        `json:"ns_pid,omitempty"` // in the process's own PID namespace; 0 not known
	Leader     Text          `json:"leader,omitempty"`
	Exe        Text          `json:"exe,omitempty"`
	Container  Text          `json:"container,omitempty"`
	CgroupPath Text          `json:"cgroup,omitempty"`
	UID        uint32        `json:"uid"` // whose name User is
	User       Text          `json:"user,omitempty"`
	Ancestors  []uint32      `json:"ancestors,omitempty"` // PIDs: parent, its parent, and so on
	Again      bool          `json:"again,omitempty"`     // an earlier part told it
}

// Seed is a connection that was there when the run, or this part of it, began.
type Seed struct {
	Time   time.Duration  `json:"t_ns"`  // CLOCK_MONOTONIC at which it was found
	NetNS  uint32         `json:"netns"` // inode number
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	State  event.State    `json:"state"`
	Owner  *Owner         `json:"owner,omitempty"`
	// Holders: it is not of the beginning but of the end, and these hold it.
	Holders []Owner `json:"holders,omitempty"`
	Again   bool    `json:"again,omitempty"` // an earlier part told of it
}

// Owner is the process that holds a seed.
type Owner struct {
	TID    uint32 `json:"tid"`
	Comm   Text   `json:"comm"`
	Cgroup uint64 `json:"cgroup_id,omitempty"`
	Process
}

// Tick says that the run took no older event into account from here on.
type Tick struct {
	Time time.Duration `json:"t_ns"` // CLOCK_MONOTONIC
}

// Text is a string of a process's own, which may hold any bytes. JSON keeps
// only UTF-8, so other bytes travel as {"bytes": base64}.
type Text string

type rawText struct {
	Bytes []byte `json:"bytes"`
}

// MarshalJSON implements json.Marshaler.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(rawText{[]byte(t)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var raw rawText
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		*t = Text(raw.Bytes)
		return nil
	}
	var s string
	err := json.Unmarshal(b, &s)
	*t = Text(s)
	return err
}

// Look says that the kernel's own table of sockets was looked at when the run was
// over: of the network namespace NetNS it had every connection that is open by what
// was told, in the same state, but for those whose Conn is among Gone.
type Look struct {
	Time  time.Duration `json:"t_ns"` // CLOCK_MONOTONIC
	NetNS uint32        `json:"netns"`
	Gone  []uint64      `json:"gone,omitempty"`
}

// Wall says that the wall clock was set, or that the machine slept, when
// CLOCK_MONOTONIC stands still: what adds to that clock to make Unix time is
// another from now on.
type Wall struct {
	Time   time.Duration `json:"t_ns"`            // CLOCK_MONOTONIC
	Offset time.Duration `json:"wall_offset_ns"`  // wall clock minus CLOCK_MONOTONIC
	Again  bool          `json:"again,omitempty"` // an earlier part told it
}
