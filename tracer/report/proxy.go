package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/proxy"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// ProxySchema is the version of TieRecord.
const ProxySchema = "tcpbye.proxy/1"

// TieRecord is the JSON record of two connections of a proxy.
type TieRecord struct {
	Schema     string    `json:"schema"`
	PID        *uint32   `json:"pid"`
	Comm       *string   `json:"comm"`
	Cause      LegRecord `json:"cause"`
	Effect     LegRecord `json:"effect"`
	Gap        float64   `json:"gap_ms"`
	Confidence string    `json:"confidence"`
	Alone      bool      `json:"alone"`
	Bytes      bool      `json:"bytes"`
	Adjacent   bool      `json:"adjacent"`
	Sentence   string    `json:"sentence"`
}

// LegRecord is one of them.
type LegRecord struct {
	Side    string  `json:"side"` // client or backend, seen from the proxy
	ID      string  `json:"id"`
	Local   *string `json:"local"`
	Remote  *string `json:"remote"`
	Ended   *string `json:"ended"`
	Class   string  `json:"class"`
	Verdict string  `json:"cause"`
}

// Trouble says whether one of the two ended in another way than gracefully.
func Trouble(x *proxy.Tie) bool {
	for _, l := range []*proxy.Leg{x.Cause, x.Effect} {
		v := &l.Verdict
		if v.Class != verdict.Graceful && !v.Harmless && !v.Probe || v.Unanswered != nil {
			return true
		}
	}
	return false
}

func confidenceOf(x *proxy.Tie) string {
	if x.Certain {
		return string(verdict.Certain)
	}
	return string(verdict.Likely)
}

// Tied is the answer in a sentence: nginx/812 reset the client 10.0.0.9:515 because the
// backend 10.0.0.7:80 had reset nginx 0.3 ms before.
func Tied(x *proxy.Tie) string {
	comm := event.Quote(x.Effect.Comm)
	did := "closed the connection of "
	if x.Effect.Verdict.Class == verdict.Aborted {
		did = "reset "
	}
	because := ""
	cause := sideOf(x.Cause) + " " + addr(x.Cause.Remote())
	its := "the connection of " + comm + " to " + cause
	switch x.Cause.By {
	case proxy.PromptFIN:
		because = cause + " had closed its connection to " + comm
	case proxy.PromptReset:
		because = cause + " had reset " + comm
	case proxy.PromptPath:
		because = "something between " + comm + " and " + cause + " had reset their connection"
	case proxy.PromptTimeout:
		because = its + " had timed out"
	case proxy.PromptOperator:
		because = "somebody on this machine had destroyed " + its
	default:
		because = its + " had ended"
	}
	return fmt.Sprintf("%s/%s %s%s %s because %s %s before", comm, event.PIDText(x.Effect.PID), did, sideOf(x.Effect), addr(x.Effect.Remote()), because, gapText(x.Gap))
}

func sideOf(l *proxy.Leg) string {
	if l.Down {
		return "the client"
	}
	return "the backend"
}

func gapText(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// why says what proves a tie.
func why(x *proxy.Tie) string {
	var all []string
	for _, y := range []struct {
		is   bool
		text string
	}{{x.Alone, "it had no other connections then"}, {x.Bytes, "as many bytes in as out"}, {x.Adjacent, fmt.Sprintf("thread %d ended one right after the other", x.Effect.TID)}} {
		if y.is {
			all = append(all, y.text)
		}
	}
	return confidenceOf(x) + ": " + strings.Join(all, ", ")
}

// WriteTies writes ties for people.
func WriteTies(w io.Writer, all []proxy.Tie, o Options) error {
	out := &output{w: w}
	p := pen{color: o.Color, ascii: o.ASCII}
	for i := range all {
		x := &all[i]
		look := bold
		if Trouble(x) {
			look = redBold
		}
		if err := out.string(o.wall(x.Effect.Act).Format(timeOfDay+".000") + "  " + p.ink(p.text(Tied(x)), look) + "\n" + p.ink("              "+why(x), dim) + "\n"); err != nil {
			return err
		}
		for _, l := range []*proxy.Leg{x.Cause, x.Effect} {
			line := fmt.Sprintf("              %s  %s", pad(strings.TrimPrefix(sideOf(l), "the "), 7), l.Verdict.Cause)
			if n, _ := lostBytes(l.Verdict.Lost); n > 0 {
				line += fmt.Sprintf(", %s bytes lost", shortNumber(n))
			}
			if err := out.string(p.ink(line, dim) + "\n"); err != nil {
				return err
			}
		}
	}
	return out.err
}

// TiesJSON writes ties, one on a line.
func TiesJSON(w io.Writer, all []proxy.Tie, o Options) error {
	enc := json.NewEncoder(w)
	leg := func(l *proxy.Leg) LegRecord {
		return LegRecord{Side: strings.TrimPrefix(sideOf(l), "the "), ID: l.Conn.ID, Local: addrRecord(l.Local()), Remote: addrRecord(l.Remote()), Ended: wallRecord(l.Began, o.Clock),
			Class: string(l.Verdict.Class), Verdict: string(l.Verdict.Cause)}
	}
	for i := range all {
		x := &all[i]
		if err := enc.Encode(TieRecord{
			Schema: ProxySchema, PID: event.PIDHere(x.Effect.PID), Comm: known(x.Effect.Comm), Cause: leg(x.Cause), Effect: leg(x.Effect),
			Gap: float64(x.Gap) / float64(time.Millisecond), Confidence: confidenceOf(x), Alone: x.Alone, Bytes: x.Bytes, Adjacent: x.Adjacent, Sentence: Tied(x),
		}); err != nil {
			return err
		}
	}
	return nil
}
