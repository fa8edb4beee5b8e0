package report

import (
	"cmp"
	"fmt"
	"time"

	"github.com/tcpbye/tcpbye/tracer/hosts"
)

// JointRecord is what the recording of the other end's host added to an end.
type JointRecord struct {
	Outcome string      `json:"outcome"` // see hosts.Outcome
	Host    string      `json:"host"`    // name of the other host
	Alone   AloneRecord `json:"alone"`
	Clock   ClockRecord `json:"clock"`
	// Path is what was sent at one end and never received at the other.
	Path []LossRecord `json:"path"`
}

// AloneRecord is the verdict without the other host.
type AloneRecord struct {
	Class      string  `json:"class"`
	Cause      string  `json:"cause"`
	Ender      *string `json:"ender"`
	Confidence string  `json:"confidence"`
}

// ClockRecord is how the wall clock of the other host stands to this end's.
type ClockRecord struct {
	By    string `json:"by"`       // see hosts.Source
	Ahead int64  `json:"ahead_ns"` // how much later it is there
	Least *int64 `json:"least_ns"` // it is at least so; null: nothing shows
	Most  *int64 `json:"most_ns"`
}

// LossRecord is something that the path lost.
type LossRecord struct {
	From  string  `json:"from"` // host
	To    string  `json:"to"`
	What  string  `json:"what"`
	Bytes *uint64 `json:"bytes"` // null: it has none
}

func jointRecord(x *hosts.Joint) *JointRecord {
	if x == nil {
		return nil
	}
	nanoseconds := func(d *time.Duration) *int64 {
		if d == nil {
			return nil
		}
		n := int64(*d)
		return &n
	}
	r := &JointRecord{
		Outcome: string(x.Outcome), Host: x.Host,
		Alone: AloneRecord{string(x.Alone.Class), string(x.Alone.Cause), known(string(x.Alone.Ender)), string(x.Alone.Confidence)},
		Clock: ClockRecord{string(x.Clock.By), int64(x.Clock.Ahead), nanoseconds(x.Clock.Least), nanoseconds(x.Clock.Most)},
		Path:  []LossRecord{},
	}
	for _, l := range x.Path {
		r.Path = append(r.Path, LossRecord{l.From, l.To, l.What, known(l.Bytes)})
	}
	return r
}

// alone says what an end's own host said of it, where that was not the same.
func (st *story) alone(p pen) (lines []string) {
	for _, j := range st.ends {
		if j == nil || j.Joint == nil {
			continue
		}
		v := &j.Joint.Alone
		said := p.own(j.Conn.Host) + " alone: " + classText(v.Class) + ", " + p.text(string(v.Cause)) + " (" + string(v.Confidence) + ")"
		switch j.Joint.Outcome {
		case hosts.Confirmed, hosts.Learned, hosts.Refuted:
			lines = append(lines, said+", "+string(j.Joint.Outcome))
		case hosts.Disputed:
			lines = append(lines, said+". Both ends together say otherwise, with certainty, too: one of the recordings does not tell what happened, or this is a fault of tcpbye's; please report it")
		case hosts.Uncovered:
			lines = append(lines, said+", which stays: the other host's recording does not cover the end of this one")
		}
	}
	return lines
}

// clocks says how the other host's clock was found to stand to that of the first.
func (st *story) clocks(p pen) []string {
	j := st.ends[left]
	if j == nil || j.Joint == nil {
		return nil
	}
	c := j.Joint.Clock
	here, there := p.own(j.Conn.Host), p.own(j.Joint.Host)
	switch c.By {
	case hosts.SameClock:
		return nil
	case hosts.WallClocks:
		return []string{"nothing of the connection shows how those of " + here + " and " + there + " stand to each other: both are taken to be right"}
	}
	text := there + "'s minus " + here + "'s: " + exactSeconds(c.Ahead)
	switch {
	case c.Least != nil && c.Most != nil:
		return []string{text + ", between " + exactSeconds(*c.Least) + by(c.LeastBy) + " and " + exactSeconds(*c.Most) + by(c.MostBy)}
	case c.Least != nil:
		return []string{text + ", at least " + exactSeconds(*c.Least) + by(c.LeastBy)}
	}
	return []string{text + ", at most " + exactSeconds(*c.Most) + by(c.MostBy)}
}

// by is what bounds the difference of two clocks.
func by(what string) string { return " (" + cmp.Or(what, "other connections") + ")" }

// exactSeconds is a difference of times to the microsecond.
func exactSeconds(d time.Duration) string { return fmt.Sprintf("%+.6f s", d.Seconds()) }
