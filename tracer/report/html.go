package report

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// HTMLSink writes one page with a timeline and a verdict per connection. The
// page needs nothing from elsewhere and runs no script.
type HTMLSink struct {
	pairing
	out   output
	o     Options
	begun bool
	shown int
}

// NewHTML is a sink for a browser.
func NewHTML(w io.Writer, o Options) *HTMLSink {
	s := &HTMLSink{out: output{w: w}, o: o}
	s.show = s.section
	return s
}

const htmlHead = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>tcpbye</title>
<style>
:root { color-scheme: light dark; --ink: #1c2128; --dim: #6a737d; --line: #d8dee4; --paper: #fff; --red: #c1121f; --green: #1a7f37; --amber: #9a6700; --tint: #fff1f1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #8b949e; --line: #30363d; --paper: #0d1117; --red: #ff7b72; --green: #3fb950; --amber: #d29922; --tint: #2d1618; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
section { margin: 0 0 3.5rem; }
h2 { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 2rem; font-size: 1.15rem; margin: 0 0 .8rem; }
h2 small, time, thead span, td.note, dt { color: var(--dim); font-weight: normal; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font: 13px/1.7 ui-monospace, monospace; }
th { text-align: left; font-weight: 600; line-height: 1.35; padding: 0 .9rem .5rem 0; vertical-align: bottom; border-bottom: 1px solid var(--line); }
td { padding: .05rem .9rem .05rem 0; vertical-align: top; white-space: nowrap; }
th span { display: block; }
td.at, th.at { text-align: right; width: 1%; padding-left: .6rem; }
td.wire, th.wire { text-align: center; width: 8%; color: var(--dim); border-left: 2px solid var(--line); border-right: 2px solid var(--line); padding: .05rem .8rem; }
td.left { width: 42%; } td.right { padding-left: .9rem; } th.right { padding-left: .9rem; }
td b { font-weight: 600; } td i { font-style: normal; color: var(--dim); }
sup, mark { background: none; color: var(--amber); font-weight: 600; }
tr.fatal { background: var(--tint); } tr.fatal td { color: var(--red); } td .rst { color: var(--red); font-weight: 600; }
.class { font-weight: 700; } .graceful { color: var(--green); } .aborted { color: var(--red); } .other { color: var(--amber); }
.verdict { margin: 1rem 0 0; padding: .7rem 1rem; border-left: 4px solid currentColor; } .verdict > * { color: var(--ink); margin: .25rem 0; }
.verdict > p:first-child span { color: inherit; } .verdict > p:first-child { color: inherit; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; } dd { margin: 0; }
</style>
</head>
<body>
`

// Close implements Sink.
func (s *HTMLSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.head(); err != nil {
		return err
	}
	tail := "</body>\n</html>\n"
	if s.shown == 0 {
		tail = "<p>No connection ended.</p>\n" + tail
	}
	return s.out.string(tail)
}

func (s *HTMLSink) head() error {
	if s.begun {
		return s.out.err
	}
	s.begun = true
	return s.out.string(htmlHead)
}

func (s *HTMLSink) section(a, b *Judged) error {
	if err := s.head(); err != nil {
		return err
	}
	s.shown++
	p := pen{}
	st := newStory(a, b, p)
	esc := html.EscapeString
	var doc strings.Builder
	title, aside := heading(p, s.o, a, b)
	fmt.Fprintf(&doc, "<section>\n<h2>%s <small>%s</small></h2>\n<div class=\"scroll\"><table>\n", esc(title), esc(aside))
	names, addrs := st.heads(p)
	fmt.Fprintf(&doc, "<thead><tr><th class=\"at\">s</th><th>%s<span>%s</span></th><th class=\"wire\"></th><th class=\"right\">%s<span>%s</span></th></tr></thead>\n<tbody>\n",
		esc(names[left]), esc(addrs[left]), esc(names[right]), esc(addrs[right]))
	for n := range st.rows {
		r := &st.rows[n]
		class, sign := "", ""
		if r.fatal {
			class, sign = ` class="fatal"`, "✗ "
		}
		fmt.Fprintf(&doc, "<tr%s><td class=\"at\">%s<time>%s</time></td><td class=\"left\">%s</td><td class=\"wire\">%s</td><td class=\"right\">%s</td></tr>\n",
			class, sign, seconds(r.at), htmlCell(r.items[left]), htmlWire(r.wire), htmlCell(r.items[right]))
	}
	f := st.findings(p)
	kind := "other"
	switch f.ink {
	case green:
		kind = "graceful"
	case redBold:
		kind = "aborted"
	}
	fmt.Fprintf(&doc, "</tbody></table></div>\n<div class=\"verdict %s\">\n<p><span class=\"class\">%s</span>: <code>%s</code>%s</p>\n",
		kind, esc(f.class), esc(f.cause), esc(f.tail))
	for _, text := range f.sentences {
		fmt.Fprintf(&doc, "<p>%s</p>\n", esc(text))
	}
	doc.WriteString("<dl>\n")
	for _, fd := range f.fields {
		fmt.Fprintf(&doc, "<dt>%s</dt><dd>", esc(fd.label))
		for n, l := range fd.lines {
			if n > 0 {
				doc.WriteString("<br/>")
			}
			doc.WriteString(esc(l))
		}
		doc.WriteString("</dd>\n")
	}
	doc.WriteString("</dl>\n</div>\n</section>\n")
	return s.out.string(doc.String())
}

func htmlCell(i *item) string {
	if i == nil {
		return ""
	}
	p := pen{}
	var parts []string
	if i.act != "" {
		parts = append(parts, "<b>"+html.EscapeString(actOf(i))+"</b>")
	}
	if way := p.way(i.states, false); way != "" {
		parts = append(parts, html.EscapeString(way))
	}
	if i.text != "" {
		parts = append(parts, html.EscapeString(i.text))
	}
	if i.note != "" {
		parts = append(parts, "<i>"+html.EscapeString(i.note)+"</i>")
	}
	if len(i.marks) > 0 {
		parts = append(parts, "<mark>"+p.marks(i.marks)+"</mark>")
	}
	return strings.Join(parts, "&#160; ")
}

func htmlWire(w *wire) string {
	if w == nil {
		return ""
	}
	text := html.EscapeString(pen{}.arrow(w, width(w.segment.String())+4))
	if w.kind == segRst {
		return `<span class="rst">` + text + "</span>"
	}
	return text
}
