package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer"
)

// rungFlag is the flag that forces one way to attach.
type rungFlag tracer.Rung

func (r *rungFlag) flag(cmd *cobra.Command) {
	cmd.Flags().Var(r, "attach", "attach every hook by `WAY`: auto (the best for each), "+strings.Join(wayNames(), ", "))
}

// wayNames are the ways to attach a hook.
func wayNames() []string {
	var names []string
	for _, rung := range tracer.Rungs() {
		names = append(names, string(rung))
	}
	return names
}

// String is the flag's value; auto is the default.
func (r *rungFlag) String() string {
	if *r == "" {
		return "auto"
	}
	return string(*r)
}

// Set reads the flag.
func (r *rungFlag) Set(s string) error {
	rung, err := tracer.ParseRung(s)
	*r = rungFlag(rung)
	return err
}

// Type is what pflag calls it.
func (r *rungFlag) Type() string { return "way" }
