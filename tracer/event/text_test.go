package event

import "testing"

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"nginx":               "nginx",
		"my server":           "my server",
		"größe":               "größe",
		"":                    "",
		"a\x1b[31mb":          `a\x1b[31mb`,
		"a\r\n\tb\x00\x7f":    `a\r\n\tb\x00\x7f`,
		"\u009b31m":           `\u009b31m`,
		"\u202eevil":          `\u202eevil`,
		"\u200b":              `\u200b`,
		"\xff\xfe":            `\xff\xfe`,
		"bad\xc3":             `bad\xc3`,
		"\ufffd":              "\ufffd",
		`back\slash`:          `back\slash`,
		"\U000e0041 tag":      `\U000e0041 tag`,
		"non\u00a0breaking":   `non\u00a0breaking`,
		"line\u2028separator": `line\u2028separator`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("Quote(%q) = %q, want %q", in, got, want)
		}
		if got := Quote(Quote(in)); got != want {
			t.Errorf("Quote twice of %q = %q, want %q", in, got, want)
		}
	}
	if got, want := QuoteASCII("größe → x"), `gr\u00f6\u00dfe \u2192 x`; got != want {
		t.Errorf("ASCII: %q, want %q", got, want)
	}
}

func TestSignalName(t *testing.T) {
	for n, want := range map[int]string{0: "", 10: "SIGUSR1", 13: "SIGPIPE", 31: "SIGSYS", 35: "signal 35"} {
		if got := SignalName(n); got != want {
			t.Errorf("SignalName(%d) = %q, want %q", n, got, want)
		}
	}
}
