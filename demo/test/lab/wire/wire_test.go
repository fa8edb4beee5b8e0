package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpecRoundTrip(t *testing.T) {
	var every []byte
	for b := 1; b < 256; b++ { // an argument cannot hold a zero byte
		every = append(every, byte(b))
	}
	want := Spec{
		Args:         Bytes([]string{"cmd", "", "a b", `"quoted" 'twice' \`, "new\nline\r\n", "$HOME * ;", string(every), "\xff\xfe", "ä日本", "-k", "--"}),
		Env:          Bytes([]string{"A=", "B=x=y", "C=\xff"}),
		Dir:          []byte("/dir with \xff"),
		Path:         Bytes([]string{"/bin"}),
		HostRoot:     true,
		Out:          []byte("/out"),
		RootModules:  []Module{{File: "a.ko"}},
		MoreModules:  []Module{{File: "b.ko", Params: "n=1"}},
		Missing:      []string{"c"},
		ModuleTree:   []byte("/m"),
		KernelConfig: []byte("/c"),
		Stdin:        true,
	}
	text, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnmarshalSpec(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Strings(want.Args), Strings(got.Args)); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "{}", "[]", `{"Args":["not base64!"]}`} {
		if _, err := UnmarshalSpec([]byte(bad)); err == nil {
			t.Errorf("the spec %q is accepted", bad)
		}
	}
}

func TestFrames(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 3*MaxFrame/16)
	var buf bytes.Buffer
	w := NewWriter(&buf)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(w.Write(Note, []byte("hello")))
	check(w.Write(Stdin, nil))
	n, err := w.Stream(Stdout).Write([]byte(long))
	if err != nil || n != len(long) {
		t.Fatalf("wrote %d of %d: %v", n, len(long), err)
	}
	if n, err := w.Stream(Stdin).Write(nil); n != 0 || err != nil { // an empty frame would be the end
		t.Fatal(n, err)
	}
	check(w.WriteJSON(Exit, ExitBody{Code: 137, Signal: 9}))
	if err := w.WriteJSON(Fail, long); err == nil {
		t.Error("JSON that does not fit a frame is accepted")
	}

	type frame struct {
		Kind Kind
		Body string
	}
	var got []frame
	whole := bytes.Clone(buf.Bytes())
	for r := NewReader(&buf); ; {
		kind, body, err := r.Next()
		if err == io.EOF {
			break
		}
		check(err)
		if last := len(got) - 1; kind == Stdout && last >= 0 && got[last].Kind == Stdout {
			got[last].Body += string(body)
			continue
		}
		got = append(got, frame{kind, string(body)})
	}
	want := []frame{{Note, "hello"}, {Stdin, ""}, {Stdout, long}, {Exit, `{"Code":137,"Signal":9}`}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	// Cut anywhere but between frames, the stream must not look complete.
	r := NewReader(bytes.NewReader(whole[:len(whole)-1]))
	for err = nil; err == nil; {
		_, _, err = r.Next()
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a cut stream ends with %v", err)
	}
	for _, bad := range []string{"\x00\x00\x00\x00\x00", "\x7f\x00\x00\x00\x00", "\x01\xff\xff\xff\xff"} {
		if _, _, err := NewReader(strings.NewReader(bad)).Next(); err == nil {
			t.Errorf("the frame %q is accepted", bad)
		}
	}
}
