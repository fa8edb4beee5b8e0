//go:build withcgo

package main

// int tcpbye_helper(int n) { return n + 1; }
import "C"

func init() { C.tcpbye_helper(1) }
