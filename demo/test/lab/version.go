package lab

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// compareVersions orders two Debian version strings as dpkg does (Debian
// Policy 5.6.12): the epoch first, then the upstream version, then the
// revision; in each, runs of non-digits, where "~" sorts before the end and
// letters before other characters, alternate with numbers.
func compareVersions(a, b string) int {
	epochA, restA := cutEpoch(a)
	epochB, restB := cutEpoch(b)
	upstreamA, revisionA := cutRevision(restA)
	upstreamB, revisionB := cutRevision(restB)
	return cmp.Or(
		comparePart(epochA, epochB),
		comparePart(upstreamA, upstreamB),
		comparePart(revisionA, revisionB),
	)
}

func cutEpoch(v string) (epoch, rest string) {
	if e, r, ok := strings.Cut(v, ":"); ok {
		return e, r
	}
	return "", v
}

func cutRevision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

func comparePart(a, b string) int {
	for a != "" || b != "" {
		var textA, textB, numberA, numberB string
		textA, a = cutWhile(a, func(c byte) bool { return !isDigit(c) })
		textB, b = cutWhile(b, func(c byte) bool { return !isDigit(c) })
		for i := range max(len(textA), len(textB)) {
			if c := cmp.Compare(order(textA, i), order(textB, i)); c != 0 {
				return c
			}
		}
		numberA, a = cutWhile(a, isDigit)
		numberB, b = cutWhile(b, isDigit)
		numberA, numberB = strings.TrimLeft(numberA, "0"), strings.TrimLeft(numberB, "0")
		if c := cmp.Or(cmp.Compare(len(numberA), len(numberB)), cmp.Compare(numberA, numberB)); c != 0 {
			return c
		}
	}
	return 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func cutWhile(s string, is func(byte) bool) (head, tail string) {
	i := 0
	for i < len(s) && is(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

// order is the weight of the i-th character of s; past the end it is 0.
func order(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z':
		return int(s[i])
	}
	return int(s[i]) + 256
}

// choose returns the names that match the pattern, newest first. The pattern's
// group "release" is what is compared; of two names with the same release the
// unsigned package comes first.
func choose(names []string, pattern *regexp.Regexp) []string {
	group := pattern.SubexpIndex("release")
	release := func(name string) string { return pattern.FindStringSubmatch(name)[group] }
	var found []string
	for _, n := range names {
		if pattern.MatchString(n) {
			found = append(found, n)
		}
	}
	slices.SortFunc(found, func(a, b string) int {
		return cmp.Or(
			-comparePart(release(a), release(b)),
			-cmp.Compare(len(a), len(b)),
			cmp.Compare(a, b),
		)
	})
	return slices.Compact(found)
}
