package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// fieldRule is a line of a table: what a name may hold.
type fieldRule struct {
	kind     string
	required bool
	values   []string // of a list: exactly these; nil: any
}

func fieldRules(t *testing.T, path string) map[string]fieldRule {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]fieldRule{}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		r := fieldRule{kind: words[1]}
		for _, w := range words[2:] {
			if values, ok := strings.CutPrefix(w, "="); ok {
				r.values = strings.FieldsFunc(values, func(c rune) bool { return c == '|' || c == ',' })
			} else {
				r.required = w == "required"
			}
		}
		rules[words[0]] = r
	}
	return rules
}

// flatten lists the values of a document by their dotted names.
func flatten(prefix string, v any, to map[string]any) {
	m, ok := v.(map[string]any)
	if !ok {
		to[strings.TrimPrefix(prefix, ".")] = v
		return
	}
	for k, v := range m {
		flatten(prefix+"."+k, v, to)
	}
}

func (r fieldRule) wrong(v any) error {
	kind := r.kind
	if list, ok := strings.CutSuffix(kind, "[]"); ok {
		all, is := v.([]any)
		if !is || len(all) == 0 {
			return fmt.Errorf("%v is no list, or empty", v)
		}
		var texts []string
		for _, x := range all {
			if err := (fieldRule{kind: list}).wrong(x); err != nil {
				return err
			}
			texts = append(texts, fmt.Sprint(x))
		}
		if r.values != nil && !slices.Equal(texts, r.values) {
			return fmt.Errorf("%v is not %v", texts, r.values)
		}
		return nil
	}
	text, isText := v.(string)
	number, isNumber := v.(json.Number)
	switch kind {
	case "keyword", "text":
		if !isText || text == "" || kind == "keyword" && len(text) > 1024 {
			return fmt.Errorf("%v is no %s", v, kind)
		}
	case "date":
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
			return err
		}
	case "ip":
		if _, err := netip.ParseAddr(text); err != nil {
			return err
		}
	case "long":
		if _, err := number.Int64(); !isNumber || err != nil {
			return fmt.Errorf("%v is no integer", v)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%v is neither true nor false", v)
		}
	default:
		return fmt.Errorf("the table has the type %s", kind)
	}
	if r.values != nil && !slices.Contains(r.values, fmt.Sprint(v)) {
		return fmt.Errorf("%v is none of %v", v, r.values)
	}
	return nil
}

// TestDocuments holds the documents of every recorded end against the tables of names
// and types, and wants every name of the tables to be used.
func TestDocuments(t *testing.T) {
	ends := append(recordedEnds(t), every()...)
	boxed := every()[0] // containers are in no recording
	c := *boxed.Conn
	owner := *c.Owner
	owner.Exe, owner.User, owner.CgroupPath = "/usr/sbin/nginx", "www-data", "/docker/"+strings.Repeat("ab", 32)
	c.Owner, boxed.Conn, boxed.Verdict.Actor = &owner, &c, &owner
	ends = append(ends, boxed)
	for _, f := range []Format{ECS, OCSF} {
		rules := fieldRules(t, "testdata/"+string(f)+".fields")
		used := map[string]bool{}
		var b bytes.Buffer
		sink, err := New(f, &b, Options{Clock: testClock, Host: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range ends {
			b.Reset()
			if err := sink.End(j); err != nil {
				t.Fatal(err)
			}
			d := json.NewDecoder(&b)
			d.UseNumber()
			var doc any
			if err := d.Decode(&doc); err != nil {
				t.Fatal(err)
			}
			all := map[string]any{}
			flatten("", doc, all)
			for name, v := range all {
				used[name] = true
				r, known := rules[name]
				if !known {
					t.Errorf("%s: %s is in no table", f, name)
					rules[name] = fieldRule{kind: "?"}
				} else if err := r.wrong(v); err != nil && r.kind != "?" {
					t.Errorf("%s: %s: %v", f, name, err)
				}
			}
			for name, r := range rules {
				if r.required && all[name] == nil {
					t.Errorf("%s: %s is missing for %s", f, name, j.Verdict.Cause)
				}
			}
			if f == OCSF && all["type_uid"] != json.Number(strconv.Itoa(400100+int(all["activity_id"].(json.Number)[0]-'0'))) {
				t.Errorf("type %v of activity %v", all["type_uid"], all["activity_id"])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(rules)) {
			if !used[name] {
				t.Errorf("%s: no end has %s", f, name)
			}
		}
	}
}

// TestConnState: Zeek's states of what the catalogue has.
func TestConnState(t *testing.T) {
	seen := map[verdict.Cause]map[string]int{}
	for _, j := range recordedEnds(t) {
		if seen[j.Verdict.Cause] == nil {
			seen[j.Verdict.Cause] = map[string]int{}
		}
		seen[j.Verdict.Cause][connState(j.Conn, &j.Verdict)]++
	}
	for cause, want := range map[verdict.Cause][]string{
		verdict.OrderlyClose: {"SF"}, verdict.HalfClose: {"SF"}, verdict.PortClosed: {"REJ"}, verdict.ConnectTimeout: {"S0"},
		verdict.ConnectCancelled: {"RSTOS0"}, verdict.CloseUnread: {"RSTO", "RSTR"}, verdict.LingerZero: {"RSTO", "RSTR"},
	} {
		if got := slices.Sorted(maps.Keys(seen[cause])); !slices.Equal(got, want) && !(len(got) == len(want)+1 && slices.Contains(got, "OTH")) {
			t.Errorf("%s: %v, want %v", cause, seen[cause], want)
		}
	}
}

// TestCommunityID has the example of the specification.
func TestCommunityID(t *testing.T) {
	a, b := netip.MustParseAddrPort("128.232.110.120:34855"), netip.MustParseAddrPort("66.35.250.204:80")
	for _, got := range []string{communityID(a, b), communityID(b, a)} {
		if got != "1:LQU9qZlK+B5F3KDmev6m5PMibrg=" {
			t.Error(got)
		}
	}
	if got := communityID(a, netip.AddrPort{}); got != "" {
		t.Error(got)
	}
}

// TestLogfmt reads the lines again and holds them against CSV.
func TestLogfmt(t *testing.T) {
	for _, j := range append(every(), hostile()) {
		line := string(shown(t, Logfmt, testOptions(), j))
		if strings.Count(line, "\n") != 1 {
			t.Errorf("it is not one line: %q", line)
		}
		got := map[string]string{}
		for rest := strings.TrimSuffix(line, "\n"); rest != ""; {
			key, value, _ := strings.Cut(rest, "=")
			if strings.HasPrefix(value, `"`) {
				quoted, err := strconv.QuotedPrefix(value)
				if err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				rest = strings.TrimPrefix(value[len(quoted):], " ")
				if value, err = strconv.Unquote(quoted); err != nil {
					t.Fatal(err)
				}
			} else {
				value, rest, _ = strings.Cut(value, " ")
			}
			got[key] = value
		}
		rows, err := csv.NewReader(bytes.NewReader(shown(t, CSV, testOptions(), j))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for i, key := range rows[0] {
			value := rows[1][i]
			if key == "sentence" {
				key = "msg"
			}
			// CSV keeps a spreadsheet from taking a name for a formula.
			if want := strings.TrimPrefix(value, "'"); event.Quote(strings.TrimPrefix(got[key], "'")) != want {
				t.Errorf("%s is %q, in CSV %q", key, got[key], value)
			}
		}
		if got["level"] == "" || got["time"] == "" || got["conn_state"] == "" {
			t.Errorf("no level, time or conn_state in %s", line)
		}
	}
}

func TestGoldenDocuments(t *testing.T) {
	o := testOptions()
	o.Host = "web-1"
	for _, f := range []Format{Logfmt, ECS, OCSF} {
		golden(t, string(f)+".txt", shown(t, f, o, every()...))
	}
}
