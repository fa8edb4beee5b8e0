package scenario_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/tcpbye/tcpbye/demo/scenario"
)

var (
	boldName = regexp.MustCompile(`\*\*([a-z0-9-]+)\*\*`)
	picture  = regexp.MustCompile(`\]\((pictures/[^)]+)\)`)
)

// TestDocsNameScenarios: what docs/CLOSING.md sends its readers to is there, in both
// languages the same.
func TestDocsNameScenarios(t *testing.T) {
	known := map[string]bool{"close": true, "shutdown": true} // the echo pair, too
	for _, s := range scenario.All() {
		known[s.Name] = true
	}
	var both [2][]string
	for i, name := range []string{"CLOSING.md", "CLOSING.zh.md"} {
		dir := "../../docs"
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range boldName.FindAllSubmatch(text, -1) {
			if both[i] = append(both[i], string(m[1])); !known[string(m[1])] {
				t.Errorf("%s: no scenario is named %s", name, m[1])
			}
		}
		for _, m := range picture.FindAllSubmatch(text, -1) {
			both[i] = append(both[i], string(m[1]))
			if _, err := os.Stat(filepath.Join(dir, string(m[1]))); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		slices.Sort(both[i])
		both[i] = slices.Compact(both[i])
	}
	if len(both[0]) < 50 || !slices.Equal(both[0], both[1]) {
		t.Errorf("the two do not name the same:\n%q\n%q", both[0], both[1])
	}
}
