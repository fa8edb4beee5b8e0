// Package session is the one pipeline behind every command: events, live or
// from a recording, are joined, judged and shown in the same way.
//
// It prints nothing itself and starts no goroutine.
package session
