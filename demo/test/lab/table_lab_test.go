//go:build lab

package lab_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// notes are the reasons below a table, numbered; the same one once.
type notes []string

// cell is a value as it stands in a table: the reason behind "- " becomes the
// number of a note.
func (n *notes) cell(value string) string {
	reason, ok := strings.CutPrefix(value, "- ")
	if !ok {
		return value
	}
	i := slices.Index(*n, reason)
	if i < 0 {
		i = len(*n)
		*n = append(*n, reason)
	}
	return fmt.Sprintf("(%d)", i+1)
}

func (n notes) String() string {
	var b strings.Builder
	for i, r := range n {
		fmt.Fprintf(&b, "(%d) %s\n", i+1, r)
	}
	return b.String()
}

// print draws rows by kernel.
func print(head string, table map[string]map[string]string, kernels []string) string {
	var b strings.Builder
	var why notes
	width := func(k string) int { return max(len(k), 7) }
	fmt.Fprintf(&b, "%-44s", head)
	for _, k := range kernels {
		fmt.Fprintf(&b, " %-*s", width(k), k)
	}
	b.WriteString("\n")
	for _, name := range slices.Sorted(maps.Keys(table)) {
		fmt.Fprintf(&b, "%-44s", name)
		for _, k := range kernels {
			fmt.Fprintf(&b, " %-*s", width(k), why.cell(table[name][k]))
		}
		b.WriteString("\n")
	}
	return b.String() + why.String()
}

// rungs are the columns of each kernel, by the names of the tests' parts.
var rungs = []struct{ name, short string }{
	{"auto", "auto"}, {"fentry", "fent"}, {"kprobe", "kpr"}, {"tp_btf", "tpb"}, {"tracepoint", "tp"},
}

// hooksTable draws what TestHooks found: hook by kernel and rung. A number counts
// the self-test's events; in the first column of a kernel stands the rung that is
// taken where none is forced.
func hooksTable(told []fact, kernels []string) string {
	cells := map[string]string{} // kernel/rung/hook
	var order []string
	var with []string
	for _, f := range told {
		rung, ok := strings.CutPrefix(f.test, "TestHooks/")
		if !ok {
			continue
		}
		cells[f.kernel+"/"+rung+"/"+f.key] = f.value
		if !slices.Contains(order, f.key) {
			order = append(order, f.key)
		}
		if !slices.Contains(with, f.kernel) {
			with = append(with, f.kernel)
		}
	}
	if len(order) == 0 {
		return ""
	}
	kernels = slices.DeleteFunc(slices.Clone(kernels), func(k string) bool { return !slices.Contains(with, k) })
	var b strings.Builder
	var why notes
	fmt.Fprintf(&b, "events of the self-test, by hook, kernel and rung (auto: the one that is taken; fent fentry, kpr kprobe, tpb tp_btf, tp tracepoint)\n%-22s", "")
	for _, k := range kernels {
		fmt.Fprintf(&b, " | %-24s", k)
	}
	fmt.Fprintf(&b, "\n%-22s", "hook")
	for range kernels {
		b.WriteString(" |")
		for _, r := range rungs {
			fmt.Fprintf(&b, " %-4s", r.short)
		}
	}
	b.WriteString("\n")
	for _, h := range order {
		fmt.Fprintf(&b, "%-22s", h)
		for _, k := range kernels {
			b.WriteString(" |")
			for _, r := range rungs {
				value, ok := cells[k+"/"+r.name+"/"+h]
				if !ok {
					value = "?" // the test did not get there
				}
				for _, taken := range rungs {
					if value == taken.name {
						value = taken.short
					}
				}
				if what, bad := strings.CutPrefix(value, "MISSING "); bad {
					value = "- NOT EXPLAINED: " + what
				}
				fmt.Fprintf(&b, " %-4s", why.cell(value))
			}
		}
		b.WriteString("\n")
	}
	return b.String() + why.String()
}

// rungsTable draws what TestCatalogueOnRungs counted: ends of connections, by
// kernel and rung.
func rungsTable(told []fact, kernels []string) string {
	var b strings.Builder
	for _, k := range kernels {
		for _, r := range rungs {
			for _, f := range told {
				if f.kernel != k || f.test != "TestCatalogueOnRungs/"+r.name {
					continue
				}
				switch f.key {
				case "untold":
					fmt.Fprintf(&b, "%-14s   not told, by ends: %s\n", "", f.value)
				case "named":
					fmt.Fprintf(&b, "%-14s   for want of: %s\n", "", f.value)
				default:
					fmt.Fprintf(&b, "%-14s %-10s %s\n", k, r.name, f.value)
				}
			}
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "ends of connections, judged in a forced rung (exact cause: who, how and why as due; a number or what the application saw is not told)\n" + b.String()
}

func TestTables(t *testing.T) {
	kernels := []string{"5.10", "6.1"}
	told := []fact{
		{"5.10", "TestHooks/auto", "tcp_reset", "kprobe"}, {"5.10", "TestHooks/tp_btf", "tcp_reset", "- no such tracepoint"},
		{"6.1", "TestHooks/kprobe", "tcp_reset", "12"}, {"6.1", "TestHooks/fentry", "tcp_reset", "MISSING refused"},
		{"6.1", "TestCatalogueOnRungs/tp_btf", "tp_btf", "exact 3"},
	}
	text := hooksTable(told, kernels)
	for _, want := range []string{"tcp_reset              | kpr  ?    ?    (1)  ?    | ?    (2)  12   ?    ?", "(1) no such tracepoint", "(2) NOT EXPLAINED: refused"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if text := rungsTable(told, kernels); !strings.Contains(text, "6.1            tp_btf     exact 3") {
		t.Errorf("the rungs' table is\n%s", text)
	}
	text = print("test", map[string]map[string]string{"a": {"5.10": "ok", "6.1": "- not there"}, "b": {"6.1": "- not there"}}, kernels)
	if strings.Count(text, "(1)") != 3 || strings.Contains(text, "(2)") {
		t.Errorf("the table is\n%s", text)
	}
}
