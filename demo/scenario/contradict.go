package scenario

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Contradicted holds a judge that could not see everything against what is due:
// it may say that it does not know, or that it is not certain, but what it says
// with certainty must be so.
func (s Scenario) Contradicted(o Outcome, judged []JudgedEnd) []error {
	mine := slices.DeleteFunc(slices.Clone(judged), func(j JudgedEnd) bool {
		return j.Connection == nil || !slices.Contains(o.Watched, j.NetNS)
	})
	slices.SortStableFunc(mine, func(a, b JudgedEnd) int { return int(a.First - b.First) })
	matched, _ := o.match(mine)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(matched)) {
		v := matched[name].Verdict
		x, ok := s.expectOf(name)
		if !ok || v.Confidence != verdict.Certain {
			continue
		}
		if v.Class != x.Class || v.Cause != x.Cause || v.Ender != x.Ender {
			errs = append(errs, fmt.Errorf("%s: judged %s, %s, ender %q, and certain of it; it was %s, %s, %q", name, v.Class, v.Cause, v.Ender, x.Class, x.Cause, x.Ender))
		}
	}
	return errs
}
