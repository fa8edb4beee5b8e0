// Package verdict judges a Connection: an ordered table of rules, the first
// that matches names the one cause. A rule carries everything that is said of
// its cause anywhere: the sentence, the advice, the belief that it corrects.
//
// It is pure: no clock, no /proc, no goroutine, no printing.
package verdict
