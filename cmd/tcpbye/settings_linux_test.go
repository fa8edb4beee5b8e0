package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSettingsSecrets: of a line that is wrong only what looks like a name is shown, as
// the rest may be a secret and the words go to the journal.
func TestSettingsSecrets(t *testing.T) {
	for line, want := range map[string]string{
		"otlp-header: Authorization: Bearer S3CRET":   `"otlp-header…": want NAME = VALUE`,
		"otlp-header: Authorization: Bearer S3CRET==": `there is no setting "otlp-header…"; is it otlp-header?`,
		"S3CRET":                    "want NAME = VALUE",
		"S3CRET=":                   `there is no setting ""; tcpbye export --help lists them`,
		"= S3CRET":                  "want NAME = VALUE",
		"unknown_S3CRET = 1":        `there is no setting "unknown…"; tcpbye export --help lists them`,
		"otlp_queue = x":            `there is no setting "otlp…"; is it otlp-queue?`,
		`otlp-header = "X: S3CRET`:  `"otlp-header": the quotes of its value do not end`,
		`otlp: S3CRET = "X: S3CRET`: `"otlp…": the quotes of its value do not end`,
	} {
		path := filepath.Join(t.TempDir(), "export.conf")
		if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := (&exporting{}).command()
		s := newSettings(cmd.Flags(), func(string) string { return "" })
		err := s.fill(cmd.Flags(), path, true)
		if err == nil || !strings.HasPrefix(err.Error(), path+":1: "+want) || strings.Contains(err.Error(), "S3CRET") {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}
