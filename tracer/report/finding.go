package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/finding"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// FindingSchema is the version of FindingRecord.
const FindingSchema = "tcpbye.finding/1"

// FindingRecord is the JSON record of a finding.
type FindingRecord struct {
	Schema      string   `json:"schema"`
	Kind        string   `json:"kind"`
	Harmless    bool     `json:"harmless"`
	Count       int      `json:"count"`
	Certain     *int     `json:"certain"`
	Of          int      `json:"of"`
	Service     *string  `json:"service"`
	ServiceComm *string  `json:"service_comm"`
	Client      *string  `json:"client"`
	ClientComm  *string  `json:"client_comm"`
	PID         *uint32  `json:"pid"`
	First       *string  `json:"first"`
	Last        *string  `json:"last"`
	Period      *float64 `json:"period_ms"`
	Off         *float64 `json:"off_ms"`
	Timed       *int     `json:"timed"`
	Until       *float64 `json:"until_ms"`
	Below       *float64 `json:"below_ms"`
	Rate        *float64 `json:"per_minute"`
	Cause       *string  `json:"cause"`
	Act         *string  `json:"act"`
	Signal      *string  `json:"signal"`
	OOM         bool     `json:"oom"`
	Lost        uint64   `json:"lost"`
	Chance      *float64 `json:"chance"`
	Sentence    string   `json:"sentence"`
	Proof       string   `json:"proof"`
	Setting     string   `json:"setting"`
	Defaults    []string `json:"defaults"`
}

func findingRecord(x *finding.Finding, clock Clock) FindingRecord {
	r := FindingRecord{
		Schema: FindingSchema, Kind: string(x.Kind), Harmless: x.Harmless, Count: x.Count, Of: x.Of,
		ServiceComm: known(x.ServiceComm), ClientComm: known(x.ClientComm), PID: event.PIDHere(x.PID),
		First: wallRecord(x.First, clock), Last: wallRecord(x.Last, clock), Period: milliseconds(x.Period), Until: milliseconds(x.Until), Below: milliseconds(x.Below),
		Rate: x.Rate, Cause: known(string(x.Cause)), Act: known(string(x.Act)), Signal: known(event.SignalName(x.Signal)), OOM: x.OOM, Lost: x.Lost,
		Sentence: findingSentence(x), Proof: findingProof(x), Setting: findingSetting(x), Defaults: []string{},
	}
	if x.PID == 0 {
		r.PID = nil
	}
	switch x.Kind {
	case finding.Overflow, finding.Refused, finding.Unanswered, finding.CloseUnread, finding.LingerZero:
		r.Certain = &x.Certain
	}
	if x.Period != nil {
		r.Off, r.Timed = milliseconds(&x.Off), &x.Timed
	}
	if a := serviceText(x); a != "" {
		r.Service = &a
	}
	if x.Client.IsValid() {
		a := x.Client.String()
		r.Client = &a
	}
	if x.Chance > 0 {
		r.Chance = &x.Chance
	}
	for _, t := range x.Timeout {
		r.Defaults = append(r.Defaults, t.Program+": "+t.Setting)
	}
	return r
}

// FindingsJSON writes findings, one on a line.
func FindingsJSON(w io.Writer, all []finding.Finding, o Options) error {
	enc := json.NewEncoder(w)
	for i := range all {
		if err := enc.Encode(findingRecord(&all[i], o.Clock)); err != nil {
			return err
		}
	}
	return nil
}

// WriteFindings writes them for people: a block for each.
func WriteFindings(w io.Writer, all []finding.Finding, o Options) error {
	out := &output{w: w}
	p := pen{color: o.Color, ascii: o.ASCII}
	if len(all) == 0 {
		return out.string(p.ink("no findings: nothing that many endings have in common and that is not chance", dim) + "\n")
	}
	for i := range all {
		x := &all[i]
		look := redBold
		if x.Harmless {
			look = green
		}
		line := p.ink(string(x.Kind), look) + "  " + p.text(findingSentence(x))
		if i > 0 {
			line = "\n" + line
		}
		if err := out.string(line + "\n"); err != nil {
			return err
		}
		when := o.wall(x.First).Format(timeOfDay) + " to " + o.wall(x.Last).Format(timeOfDay)
		for _, row := range [][2]string{{"Proof", findingProof(x)}, {"When", when}, {"Setting", findingSetting(x)}} {
			const indent = "  "
			text := []string{p.text(row[1])}
			if o.Width > 20 {
				text = wrap(text[0], o.Width-len(indent)-9)
			}
			for n, t := range text {
				head := ""
				if n == 0 {
					head = row[0]
				}
				if err := out.string(indent + p.ink(pad(head, 9), dim) + t + "\n"); err != nil {
					return err
				}
			}
		}
	}
	return out.err
}

// FindingsSink shows findings at the end of what it is given.
type FindingsSink struct {
	*finding.Finder
	w    io.Writer
	o    Options
	json bool
}

// NewFindings makes a sink. Where w is nil nothing is written at the end.
func NewFindings(w io.Writer, o Options, json bool) *FindingsSink {
	return &FindingsSink{Finder: finding.New(), w: w, o: o, json: json}
}

// End implements Sink.
func (s *FindingsSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	s.Finder.End(j.Conn, &j.Verdict)
	return nil
}

// Close implements Sink.
func (s *FindingsSink) Close() error {
	switch {
	case s.w == nil:
		return nil
	case s.json:
		return FindingsJSON(s.w, s.Findings(), s.o)
	}
	if _, err := io.WriteString(s.w, "\n"); err != nil {
		return err
	}
	return WriteFindings(s.w, s.Findings(), s.o)
}

// Options are those with which it was made.
func (s *FindingsSink) Options() Options { return s.o }

func serviceText(x *finding.Finding) string {
	switch a := x.Service; {
	case !a.IsValid():
		return ""
	case a.Port() == 0:
		return a.Addr().String()
	default:
		return a.String()
	}
}

// parties names both, as far as they are known.
func findingParties(x *finding.Finding) (client, service string) {
	service = serviceText(x)
	switch name := event.Quote(x.Process()); {
	case service == "":
		service = name
	case name != "":
		service = name + " on " + service
	}
	client = "the client"
	switch {
	case x.ClientComm != "":
		client = event.Quote(x.ClientComm)
	case x.Client.IsValid():
		client = x.Client.String()
	}
	return client, service
}

func findingSentence(x *finding.Finding) string {
	client, service := findingParties(x)
	of := fmt.Sprintf("%s of %s", thousands(x.Count), thousands(x.Of))
	switch x.Kind {
	case finding.KeepaliveRace:
		return fmt.Sprintf("keep-alive race: %s closes after %s s idle, and %s used the connection again up to %s s after that: %s", service, seconds(*x.Period), client, seconds(*x.Until), of)
	case finding.PathIdleLimit:
		return fmt.Sprintf("something between %s and %s forgets connections that are idle for %s s: %s", client, service, seconds(*x.Period), of)
	case finding.HealthCheck:
		return fmt.Sprintf("every %s s %s connects to %s and resets, before any byte: a health check, harmless", seconds(*x.Period), client, service)
	case finding.CloseWaitLeak:
		in := event.Quote(x.Process())
		if in == "" {
			in = "whoever serves " + service
		}
		return fmt.Sprintf("leak: connections in CLOSE_WAIT grow by %s a minute in %s: %s now", strconv.FormatFloat(*x.Rate, 'f', 1, 64), in, thousands(x.Count))
	case finding.Overflow:
		return fmt.Sprintf("the accept queue of %s is full: %s connections were not taken", service, of)
	case finding.Unanswered:
		return fmt.Sprintf("%s ends connections without an answer, %s: %s", service, endedHow(x), of)
	case finding.Timeouts:
		return fmt.Sprintf("connections to %s time out: %s", service, of)
	case finding.Refused:
		return fmt.Sprintf("nothing listens on %s: %s connections were refused", service, of)
	case finding.CloseUnread:
		return fmt.Sprintf("%s closes before it has read all that it was sent, which resets the connection: %s", service, of)
	case finding.LingerZero:
		return fmt.Sprintf("%s aborts its connections on purpose (SO_LINGER with time 0): %s", service, of)
	}
	return string(x.Kind)
}

// endedHow is how a service ended connections that it did not answer.
func endedHow(x *finding.Finding) string {
	switch {
	case x.OOM:
		return "killed by the kernel, which was out of memory"
	case x.Act == verdict.NoAct:
		return "by a FIN from another machine"
	}
	return "by " + strings.TrimPrefix(actText(x.Act, x.Signal), "by ")
}

// chanceText is a small probability in words.
func chanceText(p float64) string {
	if p <= 0 {
		return ""
	}
	n := int(math.Round(-math.Log10(p)))
	return fmt.Sprintf("; by chance that is so once in 10^%d times", n)
}

func findingProof(x *finding.Finding) string {
	near := max(x.Off, time.Millisecond)
	switch x.Kind {
	case finding.KeepaliveRace:
		return fmt.Sprintf("the service closed %s times after %s s ± %s s without a byte; %s times the client's data met the closed socket%s",
			thousands(x.Timed), seconds(*x.Period), seconds(near), thousands(x.Count), chanceText(x.Chance))
	case finding.PathIdleLimit:
		s := fmt.Sprintf("each of %s connections that were found dead, with no FIN, had been idle for %s s or more", thousands(x.Count), seconds(*x.Period))
		if x.Off > 0 || x.Below == nil {
			s = fmt.Sprintf("%s connections were reset after %s s ± %s s without a byte, with nothing to answer and no FIN", thousands(x.Timed), seconds(*x.Period), seconds(near))
		}
		if x.Below != nil {
			s += fmt.Sprintf("; of all others none had been idle for longer than %s s", seconds(*x.Below))
		}
		return s + chanceText(x.Chance)
	case finding.HealthCheck:
		return fmt.Sprintf("%s of %s intervals are %s s ± %s s%s", thousands(x.Timed), thousands(x.Count-1), seconds(*x.Period), seconds(near), chanceText(x.Chance))
	case finding.CloseWaitLeak:
		s := fmt.Sprintf("%s connections whose other end has finished are open still, %s of them for 10 s or more; the last of these came %s s after the first", thousands(x.Count), thousands(x.Timed), seconds(x.Last-x.First))
		if a := serviceText(x); a != "" && x.Process() != "" {
			s += "; most are of " + a
		}
		if x.Opener != nil {
			s += "; opened by " + event.Quote(x.Opener.Comm) + "/" + event.PIDText(x.Opener.PID)
		}
		return s
	case finding.Unanswered:
		times := thousands(x.Count) + " times "
		if x.Certain != x.Count {
			times = thousands(x.Count) + " times, " + certainOf(x) + ", "
		}
		s := times + "bytes had come after the last that it sent, and it ended the connection"
		if x.PID != 0 {
			s += ", always this one of several processes"
		}
		return s + bytesLost(x.Lost)
	case finding.Timeouts:
		return fmt.Sprintf("%s of %s connections to it timed out, most with %s%s", thousands(x.Count), thousands(x.Of), x.Cause, chanceText(x.Chance))
	}
	if x.Certain == x.Count {
		return fmt.Sprintf("each of the %s is proven on its own (%s)", thousands(x.Count), x.Cause) + bytesLost(x.Lost)
	}
	return fmt.Sprintf("%s, %s (%s)", thousands(x.Count), certainOf(x), x.Cause) + bytesLost(x.Lost)
}

// certainOf says how many of a finding's endings are proven.
func certainOf(x *finding.Finding) string {
	if x.Certain == 0 {
		return "each of them likely, none certain"
	}
	return thousands(x.Certain) + " of them certain and the rest likely"
}

func bytesLost(n uint64) string {
	if n == 0 {
		return ""
	}
	return "; " + shortNumber(n) + " bytes were lost"
}

func findingSetting(x *finding.Finding) string {
	var named string
	if len(x.Timeout) > 0 {
		var names []string
		for _, t := range x.Timeout {
			names = append(names, t.Program+" "+t.Setting)
		}
		named = " The default of: " + strings.Join(names, "; ") + "."
	}
	switch x.Kind {
	case finding.KeepaliveRace:
		return fmt.Sprintf("let the client give idle connections up before %s s, or the service keep them for longer than the client does.%s", seconds(*x.Period), named)
	case finding.PathIdleLimit:
		return fmt.Sprintf("let the client give idle connections up before %s s, or have keepalives sent sooner (SO_KEEPALIVE, TCP_KEEPIDLE); or raise the limit of the NAT, firewall or load balancer.%s", seconds(*x.Period), named)
	case finding.HealthCheck:
		return "none is needed; an alarm on resets should leave these out."
	case finding.CloseWaitLeak:
		return "close the connection when a read returns end of file, also on the path of errors; tcpbye trace --open shows which they are."
	case finding.Overflow:
		return "raise the backlog of listen(2) and net.core.somaxconn, whichever is smaller, or have more threads accept."
	case finding.Unanswered:
		if x.OOM {
			return "raise the memory limit (memory.max of its cgroup), or find what it needs so much for."
		}
		return "look into the service's log for these moments: a worker's timeout or limit of requests, a crash that is caught, a stop that does not wait."
	case finding.Timeouts:
		return "look at the way there: a filter that drops without a word, a route, a host that is down. A connect timeout and TCP_USER_TIMEOUT bound how long that takes."
	case finding.Refused:
		return "start the service before its clients, pass the listener on when it is restarted, or correct the address."
	case finding.CloseUnread:
		return "read the rest before closing, or shutdown(SHUT_WR) and read for a while (nginx: lingering_close)."
	case finding.LingerZero:
		return "take SO_LINGER away, unless that is meant (haproxy: option nolinger)."
	}
	return ""
}
