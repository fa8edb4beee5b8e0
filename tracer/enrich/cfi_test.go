package enrich

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

var amd64 = machines["amd64"]

// frameInfo is an .eh_frame at address 0x10000 of one function at 0x1000, with
// the instructions of its CIE and of itself. Addresses are absolute.
func frameInfo(cie, fde []byte) []byte {
	head := append([]byte{0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x00}, cie...) // factors 1 and -8
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(head)))
	out = append(out, head...)
	body := binary.LittleEndian.AppendUint32(nil, uint32(len(out)+4))
	body = binary.LittleEndian.AppendUint64(body, 0x1000)
	body = binary.LittleEndian.AppendUint64(body, 0x100)
	body = append(append(body, 0), fde...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(body)))
	out = append(out, body...)
	return append(out, 0, 0, 0, 0)
}

// What gcc begins every function of amd64 with: CFA=rsp+8, ra at CFA-8.
var usualCIE = []byte{cfaDefCFA, 7, 8, 0x80 | 16, 1}

func TestCFI(t *testing.T) {
	usual := row{CFA: cfaSP, Offset: 8, RA: rule{ruleOffset, -8}}
	pushed := row{CFA: cfaFP, Offset: 16, RA: rule{ruleOffset, -8}, FP: rule{ruleOffset, -16}}
	push := []byte{0x41, cfaDefCFAOffset, 16, 0x86, 2, 0x43, cfaDefCFARegister, 6} // +1: push rbp; +4: mov rsp, rbp
	for _, c := range []struct {
		name string
		fde  []byte
		pc   uint64
		want row
		ok   bool
	}{
		{"the beginning", push, 0x1000, usual, true},
		{"before the function", push, 0xfff, row{}, false},
		{"behind it", push, 0x1100, row{}, false},
		{"in the prologue", push, 0x1001, row{CFA: cfaSP, Offset: 16, RA: rule{ruleOffset, -8}, FP: rule{ruleOffset, -16}}, true},
		{"behind the prologue", push, 0x1004, pushed, true},
		{"an epilogue in the middle", append(push[:len(push):len(push)], 0x44, cfaRememberState, cfaDefCFA, 7, 8, 0xc6, 0x41, cfaRestoreState), 0x1008,
			usual, true},
		{"and what follows", append(push[:len(push):len(push)], 0x44, cfaRememberState, cfaDefCFA, 7, 8, 0xc6, 0x41, cfaRestoreState), 0x1009,
			pushed, true},
		{"an expression", []byte{cfaDefCFAExpr, 2, 0x77, 8}, 0x1000, row{CFA: cfaOther, Offset: 8, RA: rule{ruleOffset, -8}}, true},
		{"a register in an expression", []byte{cfaExpression, 6, 2, 0x77, 8}, 0x1000, row{CFA: cfaSP, Offset: 8, RA: usual.RA, FP: rule{Kind: ruleOther}}, true},
		{"the outermost", []byte{cfaUndefined, 16}, 0x1000, row{CFA: cfaSP, Offset: 8, RA: rule{Kind: ruleUndefined}}, true},
		{"long steps", []byte{cfaAdvanceLoc1, 0x10, cfaDefCFAOffset, 16, cfaAdvanceLoc2, 0x20, 0, cfaDefCFAOffset, 24, cfaAdvanceLoc4, 0x30, 0, 0, 0, cfaDefCFAOffset, 32}, 0x1035,
			row{CFA: cfaSP, Offset: 24, RA: usual.RA}, true},
		{"signed and scaled", []byte{cfaDefCFASF, 7, 0x7e, cfaOffsetExtSF, 6, 2}, 0x1000, row{CFA: cfaSP, Offset: 16, RA: usual.RA, FP: rule{ruleOffset, -16}}, true},
		{"a state that was not remembered", []byte{cfaRestoreState}, 0x1000, row{}, false},
		{"an instruction that is none", []byte{0x1b}, 0x1000, row{}, false},
		{"an operand that is cut off", []byte{cfaDefCFA, 0x80}, 0x1000, row{}, false},
		{"too many states", bytes.Repeat([]byte{cfaRememberState}, maxRemembered+1), 0x1000, row{}, false},
		{"too many instructions", bytes.Repeat([]byte{0}, maxCFI+1), 0x1000, row{}, false},
		{"registers that nobody has", bytes.Repeat([]byte{cfaOffsetExtended, 0xff, 0xff, 3, 1}, 1000), 0x1000, usual, true},
	} {
		table := parseUnwind(frameInfo(usualCIE, c.fde), 0x10000, amd64)
		if table == nil {
			t.Errorf("%s: no table", c.name)
			continue
		}
		if got, ok := table.row(c.pc); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v, want %+v, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

// readelf is the truth about a library that is as real as any.
func TestCFIAgreesWithReadelf(t *testing.T) {
	if _, err := exec.LookPath("readelf"); err != nil {
		t.Skip("no readelf on this machine")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("readelf's names of registers are those of amd64 here")
	}
	program := buildC(t, "debug")
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	libc := ""
	for _, field := range strings.Fields(string(out)) {
		if strings.HasPrefix(field, "/") && strings.Contains(field, "libc.so") {
			libc = field
		}
	}
	for _, name := range []string{program, libc} {
		f, err := elf.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		table := newUnwindTable(f)
		if table == nil {
			t.Fatalf("%s has no table", name)
		}
		// It warns about what it does not find elsewhere, by its status, too.
		b, _ := exec.Command("readelf", "--debug-dump=frames-interp", name).Output()
		rows := 0
		var columns []string
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			switch {
			case len(fields) > 0 && fields[0] == "LOC":
				columns = fields
				continue
			case len(fields) < 2 || len(fields[0]) != 16 || len(fields) != len(columns):
				continue
			}
			pc, err := strconv.ParseUint(fields[0], 16, 64)
			if err != nil || pc == 0 {
				continue // a CIE's
			}
			var want row
			base, offset, found := strings.Cut(fields[1], "+")
			want.CFA = map[string]cfaBase{"rsp": cfaSP, "rbp": cfaFP}[base]
			if found {
				if want.Offset, err = strconv.ParseInt(offset, 10, 64); err != nil {
					t.Fatal(line)
				}
			}
			for i, column := range columns {
				var to *rule
				switch column {
				case "rbp":
					to = &want.FP
				case "ra":
					to = &want.RA
				default:
					continue
				}
				switch x := fields[i]; {
				case strings.HasPrefix(x, "c"):
					to.Kind = ruleOffset
					if to.Offset, err = strconv.ParseInt(x[1:], 10, 64); err != nil {
						t.Fatal(line)
					}
				case x == "u" && column == "ra":
					to.Kind = ruleUndefined
				case x == "exp" || x == "vexp":
					to.Kind = ruleOther
				}
			}
			got, ok := table.row(pc)
			if got.CFA == cfaOther {
				got.Offset = 0
			}
			if got.FP.Kind == ruleUndefined || got.FP.Kind == ruleSame {
				got.FP = rule{}
			}
			if rows++; !ok || got != want {
				t.Fatalf("%s: %s: %+v, %v, want %+v", name, strings.TrimSpace(line), got, ok, want)
			}
		}
		t.Logf("%s: %d rows", name, rows)
		if rows < 20 {
			t.Errorf("%s: only %d rows to compare", name, rows)
		}
	}
}
