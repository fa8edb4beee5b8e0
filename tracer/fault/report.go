package fault

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Title is a fault in a line.
func (f *Finder) Title(x *Fault) string {
	s := x.Kind
	if x.Actor != nil {
		s += " by " + x.Actor.Comm + "/" + event.PIDText(x.Actor.PID)
	}
	if at := f.Where(x); at != "" {
		s += " at " + at
	}
	return s
}

// Where is file:line, relative to the root where it lies below; "" not known.
func (f *Finder) Where(x *Fault) string {
	if x.Place.File == "" {
		return ""
	}
	rel, _ := f.Relative(x.Place.File)
	return fmt.Sprintf("%s:%d", rel, x.Place.Line)
}

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Suites   []junitSuite `xml:"testsuite"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	File    string        `xml:"file,attr,omitempty"`
	Line    int           `xml:"line,attr,omitempty"`
	Failure *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

// JUnit is the run as JUnit XML: a test case for each fault, and one for all the
// connections that had none.
func (f *Finder) JUnit() ([]byte, error) {
	faults := f.Faults()
	s := junitSuite{Name: "tcpbye", Tests: len(faults) + 1, Failures: len(faults), Properties: []junitProperty{
		{"connections", fmt.Sprint(f.Runs.Connections)}, {"held-at-exit", fmt.Sprint(f.Runs.HeldAtExit)},
	}}
	s.Cases = append(s.Cases, junitCase{Class: "tcpbye", Name: fmt.Sprintf("%d connections traced", f.Runs.Connections)})
	for i := range faults {
		x := &faults[i]
		c := junitCase{Class: "tcpbye." + x.Kind, Name: printable(f.Title(x)), Line: x.Place.Line}
		if x.Test != "" {
			c.Class = printable(x.Test)
		}
		if c.File, _ = f.Relative(x.Place.File); x.Place.File == "" {
			c.File = ""
		}
		c.Failure = &junitFailure{Message: printable(x.Sentence), Type: x.Kind, Text: printable(fmt.Sprintf("%s\n%v > %v\n%s", x.Sentence, x.Local, x.Remote, x.Advice))}
		s.Cases = append(s.Cases, c)
	}
	b, err := xml.MarshalIndent(junitSuites{Suites: []junitSuite{s}, Tests: s.Tests, Failures: s.Failures}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("make JUnit XML: %w", err)
	}
	return append([]byte(xml.Header), append(b, '\n')...), nil
}

// printable leaves out what XML 1.0 has no form for, and what a terminal would take for
// a command.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

var (
	workflowText  = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	workflowValue = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)

// Annotation is a fault as a workflow command of GitHub Actions.
func (f *Finder) Annotation(x *Fault) string {
	var at string
	if rel, ok := f.Relative(x.Place.File); ok && x.Place.Line > 0 {
		at = fmt.Sprintf("file=%s,line=%d,", workflowValue.Replace(printable(rel)), x.Place.Line)
	}
	text := x.Sentence
	if x.Test != "" {
		text = x.Test + ": " + text
	}
	return fmt.Sprintf("::error %stitle=%s::%s", at, workflowValue.Replace(printable("tcpbye: "+x.Kind)), workflowText.Replace(printable(strings.TrimSpace(text+" "+x.Advice))))
}
