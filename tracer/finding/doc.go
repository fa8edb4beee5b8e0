// Package finding finds what many endings have in common: a keep-alive race, an idle
// limit on the path, a leak.
//
// It is pure: no clock, no /proc, no goroutine, no printing. It gets judged ends, as
// session.Config.Show delivers them, in any order, and keeps a bounded number of values.
//
// A finding that could be chance is not made. Where a finding rests on numbers that could
// agree by chance, the chance is computed and must be at most Chance; where each of its
// endings is proven on its own, a fixed number of them makes the pattern. The reasons for
// all numbers are in docs/FINDINGS.md.
package finding
