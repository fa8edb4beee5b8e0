package screen

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// match is a filter as a person types it on the screen: words, all of which must
// hold. A word KEY:VALUE is a condition, any other one is looked for in what is shown.
type match struct {
	filters []filter.Filter
	either  []netip.Prefix // at either end
	states  []event.State
	retries []verdict.Retry
	silent  bool // without an answer
	words   []string
}

// keys are the conditions, for the help.
const keys = "process: port: cause: class: addr: remote: state: retry: container:"

// parseMatch reads a filter; one without words matches everything, and is nil.
func parseMatch(text string) (*match, error) {
	m := &match{}
	for word := range strings.FieldsSeq(text) {
		key, value, ok := strings.Cut(word, ":")
		if !ok || !slices.Contains(strings.Fields(keys), strings.ToLower(key)+":") {
			if ok && key != "" && strings.IndexFunc(key, func(r rune) bool { return r < 'a' || r > 'z' }) < 0 {
				return nil, fmt.Errorf("there is no condition %s:; there are %s", key, keys)
			}
			m.words = append(m.words, strings.ToLower(word))
			continue
		}
		if value == "" {
			return nil, fmt.Errorf("%s: what?", key)
		}
		if err := m.condition(strings.ToLower(key), value); err != nil {
			return nil, err
		}
	}
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	return m, nil
}

func (m *match) condition(key, value string) error {
	var spec filter.Spec
	v := []string{value}
	switch key {
	case "process":
		if _, err := strconv.ParseUint(value, 10, 31); err == nil {
			spec.PIDs = v
			break
		}
		if !strings.ContainsAny(value, `*?[\`) {
			v[0] = "*" + value + "*"
		}
		spec.Comms = v
	case "port":
		spec.Ports = v
	case "cause":
		if value == verdict.UnansweredName {
			m.silent = true
			return nil
		}
		spec.Causes = v
	case "class":
		spec.Classes = v
	case "remote":
		spec.Remote = v
	case "container":
		spec.Containers = v
	case "addr":
		f, err := filter.Parse(filter.Spec{Local: v}, filter.World{})
		if err != nil {
			return saying(err)
		}
		m.either = append(m.either, f.Local...)
		return nil
	case "state":
		for s := event.Established; s <= event.NewSynRecv; s++ {
			if strings.EqualFold(strings.ReplaceAll(value, "-", "_"), s.String()) {
				m.states = append(m.states, s)
				return nil
			}
		}
		return fmt.Errorf("state: there is no state %s", value)
	case "retry":
		r, ok := map[string]verdict.Retry{"safe": verdict.RetrySafe, "unsafe": verdict.RetryUnsafe, "unknown": verdict.RetryUnknown}[value]
		if !ok {
			return errors.New("retry: want safe, unsafe or unknown")
		}
		m.retries = append(m.retries, r)
		return nil
	}
	f, err := filter.Parse(spec, filter.World{})
	if err != nil {
		return saying(err)
	}
	m.filters = append(m.filters, *f)
	return nil
}

// saying leaves out the name of the flag that package filter puts first.
func saying(err error) error {
	_, text, _ := strings.Cut(err.Error(), " ")
	return errors.New(text)
}

// has says whether one of a connection's ends is meant; shown is what its row says.
func (m *match) has(p report.Pair, shown func() string) bool {
	if m == nil {
		return true
	}
	for _, j := range []*report.Judged{p.First, p.Second} {
		if j != nil && m.end(j.Conn, j.Verdict) {
			return m.inWords(shown)
		}
	}
	return false
}

func (m *match) inWords(shown func() string) bool {
	if len(m.words) == 0 {
		return true
	}
	text := strings.ToLower(shown())
	return !slices.ContainsFunc(m.words, func(w string) bool { return !strings.Contains(text, w) })
}

func (m *match) end(c *conn.Connection, v verdict.Verdict) bool {
	if slices.ContainsFunc(m.filters, func(f filter.Filter) bool { return !f.Match(c, v) }) || m.silent && v.Unanswered == nil {
		return false
	}
	state := c.State()
	if state == 0 {
		state = c.Before
	}
	within := func(p netip.Prefix) bool {
		return p.Contains(c.Local.Addr().Unmap().WithZone("")) || p.Contains(c.Remote.Addr().Unmap().WithZone(""))
	}
	return (len(m.either) == 0 || slices.ContainsFunc(m.either, within)) &&
		(len(m.states) == 0 || slices.Contains(m.states, state)) &&
		(len(m.retries) == 0 || slices.Contains(m.retries, v.Retry))
}
