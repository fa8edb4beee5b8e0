// Package tsharktest reads captures with Wireshark's own code. It is for tests.
package tsharktest
