package verdict_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/story/model"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// judgeTold judges a run as if the kernel half had told stories.
func (r run) judgeTold() (ends []judged) {
	j := conn.New(conn.Options{Hold: true})
	for _, x := range model.Tell(r.events) {
		if x.Story != nil {
			j.AddStory(x.Story.Told, x.Story.Events(nil))
			continue
		}
		j.Add(x.Event)
	}
	for _, c := range j.Flush() {
		ends = append(ends, judged{c, verdict.Judge(c, verdict.Scope{Missing: r.missing})})
	}
	return ends
}

// TestStoriesAreJudgedAlike: what the kernel half tells in stories is judged as what
// it tells event by event, but for how many events prove it.
func TestStoriesAreJudgedAlike(t *testing.T) {
	fact := func(l string) string { return l[:strings.LastIndex(l, ", proof ")] }
	for _, path := range recordings(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".tcpbye"), func(t *testing.T) {
			told, final := 0, 0
			var runs []run
			for _, r := range readRuns(t, path) {
				// As without --receive, too: each read ends a story.
				deaf := run{r.scenario + ", reads not watched", append(slices.Clone(r.missing), event.HookReceive), nil}
				for _, e := range r.events {
					if e.Hook != event.HookReceive {
						deaf.events = append(deaf.events, e)
					}
				}
				runs = append(runs, r, deaf)
			}
			for _, r := range runs {
				for _, x := range model.Tell(r.events) {
					if x.Story != nil && x.Story.Final {
						final++
					}
				}
				var want, got []string
				for _, x := range r.judge() {
					want = append(want, fact(line(x.c, x.v))+"\n"+x.v.Sentence+"\n"+x.v.Advice)
				}
				for _, x := range r.judgeTold() {
					got = append(got, fact(line(x.c, x.v))+"\n"+x.v.Sentence+"\n"+x.v.Advice)
					told++
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s: %s", r.scenario, d)
				}
			}
			t.Logf("%d ends, %d of them plain to the end", told, final)
			if told == 0 || final == 0 {
				t.Error("nothing was judged")
			}
		})
	}
}
