package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/rollout"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// RolloutSchema is the version of RolloutRecord.
const RolloutSchema = "tcpbye.rollout/1"

// RolloutRecord is the JSON record of a rollout.
type RolloutRecord struct {
	Schema  string            `json:"schema"`
	Service string            `json:"service"` // as it was asked for
	Trigger TriggerRecord     `json:"trigger"`
	Drain   *float64          `json:"drain_ms"`
	Then    int               `json:"open_at_begin"`
	Opened  int               `json:"opened_later"`
	Total   int               `json:"total"`
	Cut     int               `json:"cut"`
	Unsure  int               `json:"unsure"`
	Failed  int               `json:"failed"`
	Left    int               `json:"left"`
	Open    int               `json:"still_open"`
	Drained int               `json:"drained"`
	Retry   RetryRecord       `json:"cut_by_retry"`
	Lost    RolloutLossRecord `json:"lost"`
	MaxCut  *int              `json:"max_cut"`
	Gate    *string           `json:"gate"`
	Groups  []RolloutCounts   `json:"groups"`
	Dropped uint64            `json:"dropped"`
	Pending int               `json:"still_open_from_begin"`
	Events  uint64            `json:"events_lost"`
}

// TriggerRecord is what began the rollout.
type TriggerRecord struct {
	Kind   string  `json:"kind"`
	At     *string `json:"at"`
	Signal *string `json:"signal"`
	PID    *uint32 `json:"pid"`
}

// RetryRecord counts the cut ones by whether their request can be sent again.
type RetryRecord struct {
	Safe    int `json:"safe"`
	Unsafe  int `json:"unsafe"`
	Unknown int `json:"unknown"`
}

// RolloutLossRecord is how many payload bytes were lost.
type RolloutLossRecord struct {
	Request  uint64 `json:"request"`
	Response uint64 `json:"response"`
	Complete bool   `json:"complete"` // false: of some connections it is not known
}

// RolloutCounts are endings that are alike.
type RolloutCounts struct {
	Outcome     string            `json:"outcome"`
	Why         *string           `json:"why"`
	Cause       string            `json:"cause"`
	Act         *string           `json:"act"`
	Signal      *string           `json:"signal"`
	PID         *uint32           `json:"pid"`
	Comm        *string           `json:"comm"`
	Retry       *string           `json:"retry"`
	Confidence  string            `json:"confidence"`
	Connections int               `json:"connections"`
	Lost        RolloutLossRecord `json:"lost"`
}

// Rollout is a summed rollout and what was asked of it.
type Rollout struct {
	rollout.Summary
	Service string
	MaxCut  int // below 0: no gate
}

// Gate is what the gate says; "" there is none.
func (r *Rollout) Gate() rollout.Gate {
	if r.MaxCut < 0 {
		return ""
	}
	return r.Passes(r.MaxCut)
}

// JSON writes the record, on a line.
func (r *Rollout) JSON(w io.Writer, o Options) error {
	t := r.Trigger
	x := RolloutRecord{
		Schema: RolloutSchema, Service: r.Service,
		Trigger: TriggerRecord{Kind: string(t.Kind), At: wallRecord(t.At, o.Clock), Signal: known(event.SignalName(t.Signal)), PID: known(t.PID)},
		Drain:   milliseconds(r.Drain), Then: r.OpenThen, Opened: r.Opened, Total: r.Total(),
		Cut: r.Cut, Unsure: r.Unsure, Failed: r.Failed, Left: r.Left, Open: r.Open, Drained: r.Drained,
		Retry: RetryRecord{r.Safe, r.Unsafe, r.RetryUnknown}, Lost: RolloutLossRecord{r.Request, r.Response, !r.LossUnknown},
		Groups: []RolloutCounts{}, Dropped: r.Dropped, Pending: r.Pending, Events: r.EventsLost,
	}
	if gate := r.Gate(); gate != "" {
		x.MaxCut, x.Gate = &r.MaxCut, known(string(gate))
	}
	for _, g := range r.Groups {
		x.Groups = append(x.Groups, RolloutCounts{
			Outcome: string(g.Outcome), Why: known(string(g.Why)), Cause: string(g.Cause), Act: known(string(g.Act)),
			Signal: known(event.SignalName(g.Signal)), PID: known(g.PID), Comm: known(g.Comm), Retry: known(string(g.Retry)),
			Confidence: string(g.Confidence), Connections: g.Connections, Lost: RolloutLossRecord{g.Request, g.Response, !g.LossUnknown},
		})
	}
	return json.NewEncoder(w).Encode(x)
}

var outcomeLooks = map[rollout.Outcome]Look{
	rollout.Cut: LookBad, rollout.Unsure: LookWarn, rollout.Failed: LookWarn, rollout.Open: LookWarn, rollout.Drained: LookGood,
}

// Write writes it for people: when it began and how long it took, a row for what is
// alike, and the line for a gate.
func (r *Rollout) Write(w io.Writer, o Options) error {
	out := &output{w: w}
	p := pen{color: o.Color, ascii: o.ASCII}
	if err := out.string(p.ink(p.glyphs(r.heading(o)), bold) + "\n"); err != nil {
		return err
	}
	if len(r.Groups) > 0 {
		columns := []GridColumn{{Title: "OUTCOME"}, {Title: "COUNT", Right: true}, {Title: "HOW"}, {Title: "CAUSE"}, {Title: "BY", Own: true, Least: 7, Drop: 1},
			{Title: "REQUEST LOST", Right: true, Drop: 3}, {Title: "RESPONSE LOST", Right: true, Drop: 3}, {Title: "RETRY", Drop: 2}}
		var cells [][]GridCell
		for _, g := range r.Groups {
			how := string(g.Why)
			if act := actText(g.Act, g.Signal); g.Act != verdict.NoAct {
				how = strings.TrimPrefix(how+", "+act, ", ")
			}
			by := g.Comm
			if g.PID != 0 {
				by += "/" + event.PIDText(g.PID)
			}
			retry := string(g.Retry)
			if retry == "" && g.Outcome == rollout.Cut {
				retry = "?"
			}
			cells = append(cells, []GridCell{{Text: string(g.Outcome), Look: outcomeLooks[g.Outcome]}, {Text: number(uint64(g.Connections))},
				{Text: dash(how)}, {Text: string(g.Cause)}, {Text: dash(by)}, {Text: loss(g.Request, g.LossUnknown)}, {Text: loss(g.Response, g.LossUnknown)}, {Text: dash(retry)}})
		}
		if err := WriteGrid(out, o, columns, cells); err != nil {
			return err
		}
	}
	look := green
	switch {
	case r.Cut > 0:
		look = redBold
	case r.Passes(r.Cut) == rollout.GateUnsure:
		look = yellow
	}
	return out.string(p.ink(p.glyphs(r.Line()), look) + "\n")
}

// heading says what began when, and how long it took.
func (r *Rollout) heading(o Options) string {
	t := r.Trigger
	began := ""
	switch t.Kind {
	case rollout.TriggerSignal:
		began = fmt.Sprintf("%s for pid %s at ", event.SignalName(t.Signal), event.PIDText(t.PID))
	case rollout.TriggerCommand:
		began = "command started at "
	}
	if t.At == 0 {
		return fmt.Sprintf("rollout of %s · whole trace · %s from before, %d opened", event.Quote(r.Service), plural(r.OpenThen, "connection"), r.Opened)
	}
	began += o.wall(t.At).Format(timeOfDay + ".000")
	drain := "none was open"
	switch {
	case r.Drain != nil:
		drain = fmt.Sprintf("%s open then, all ended after %s s", plural(r.OpenThen, "connection"), seconds(*r.Drain))
	case r.OpenThen > 0:
		drain = fmt.Sprintf("%s open then, not all ended", plural(r.OpenThen, "connection"))
	}
	return fmt.Sprintf("rollout of %s · %s · %s · %d opened later", event.Quote(r.Service), began, drain, r.Opened)
}

// Line is the line for a release gate.
func (r *Rollout) Line() string {
	s := fmt.Sprintf("%s of %s cut", thousands(r.Cut), thousands(r.Total()))
	var more []string
	for _, x := range []struct {
		n    int
		text string
	}{{r.Safe, "safe to retry"}, {r.Unsafe, "not safe to retry"}, {r.RetryUnknown, "retry not known to be safe"}} {
		if x.n > 0 {
			more = append(more, thousands(x.n)+" "+x.text)
		}
	}
	for _, x := range []struct {
		n    int
		text string
	}{{r.Unsure, "unsure"}, {r.Failed, "failed by the network"}, {r.Left, "left by the client"}, {r.Open, "still open"}} {
		if x.n > 0 {
			more = append(more, thousands(x.n)+" "+x.text)
		}
	}
	if r.Dropped > 0 {
		more = append(more, fmt.Sprintf("%d not counted: no room", r.Dropped))
	}
	if r.EventsLost > 0 {
		more = append(more, thousands(int(r.EventsLost))+" events lost")
	}
	if r.Total() == 0 {
		more = append(more, "no connection of the service was seen")
	}
	if len(more) > 0 {
		s += ": " + strings.Join(more, ", ")
	}
	return s
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// loss is a count of lost bytes of which some may not be known.
func loss(n uint64, unknown bool) string {
	switch {
	case unknown && n == 0:
		return "?"
	case unknown:
		return "≥ " + shortNumber(n)
	case n == 0:
		return "-"
	}
	return shortNumber(n)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

func thousands(n int) string { return Grouped(uint64(n)) }

// Grouped is a number for people: 3,812.
func Grouped(n uint64) string {
	s := number(n)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}
