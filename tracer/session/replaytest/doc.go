// Package replaytest shows tests the recordings of the catalogue. It is for tests.
package replaytest
