package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// MessageID is the 128-bit identity of a cause's messages, as systemd writes it.
func MessageID(cause verdict.Cause) string {
	sum := sha256.Sum256([]byte("tcpbye.journal/1\x00" + string(cause)))
	id := sum[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // a UUID of version 8 (RFC 9562)
	return hex.EncodeToString(id)
}

// Catalog is the message catalog of all causes, for /usr/lib/systemd/catalog.
// journalctl --update-catalog takes it in.
func Catalog() string {
	var b strings.Builder
	b.WriteString("# Made by tcpbye export --catalog.\n")
	for _, r := range verdict.Rules() {
		fmt.Fprintf(&b, "\n-- %s\nSubject: A TCP connection ended: %s\nDefined-By: tcpbye\nSupport: https://github.com/tcpbye/tcpbye/issues\nDocumentation: man:tcpbye-explain(1)\n\n", MessageID(r.Cause), r.Cause)
		b.WriteString("The connection @TCPBYE_LOCAL@ to @TCPBYE_REMOTE@, held by @TCPBYE_COMM@ (@TCPBYE_PID@).\n\n")
		b.WriteString(plain(r.What) + "\n")
		if r.Do != "" {
			b.WriteString("\nWhat to do: @TCPBYE_ADVICE@\n")
		}
		fmt.Fprintf(&b, "\nMore: tcpbye explain %s\n", r.Cause)
	}
	return b.String()
}

// field is what journalctl would replace.
var field = regexp.MustCompile(`@([A-Z0-9_]+)@`)

// plain is a text in which journalctl replaces nothing.
func plain(text string) string { return field.ReplaceAllString(text, "$1") }
