package lab

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompareVersions(t *testing.T) {
	// Each list is in ascending order; the last ones are Debian Policy's.
	for _, list := range []string{
		"5.10.99-1 5.10.262-1 6.1.9-1 6.1.10-1 6.1.192-2 6.12.0-1 1:0.1-1",
		"6.12.9~rc1-1 6.12.9-1~bpo12+1 6.12.9-1 6.12.9-1+b1 6.12.9-1.1 6.12.9-2",
		"~~ ~~a ~ 0 a",
		"1.0~beta1~svn1245 1.0~beta1 1.0",
		"1a 1+ 1.1",
	} {
		versions := strings.Fields(list)
		for i, a := range versions {
			for j, b := range versions {
				want := 0
				if i < j {
					want = -1
				} else if i > j {
					want = 1
				}
				if got := compareVersions(a, b); got != want {
					t.Errorf("compare %q with %q: %d, want %d", a, b, got, want)
				}
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "1.00"}, {"0:1.0", "1.0"}, {"007", "7"}} {
		if got := compareVersions(same[0], same[1]); got != 0 {
			t.Errorf("compare %q with %q: %d, want 0", same[0], same[1], got)
		}
	}
}

// TestChoose uses names as they stand on the mirrors side by side.
func TestChoose(t *testing.T) {
	names := strings.Fields(`
		linux-image-6.1.0-9-amd64-unsigned linux-image-6.1.0-56-amd64 linux-image-6.1.0-56-amd64-unsigned
		linux-image-6.1.0-57-cloud-amd64-unsigned linux-image-6.1.0-57-rt-amd64 linux-image-6.1.0-56-amd64-dbg
		linux-image-6.1.0-0.deb11.52-amd64-unsigned linux-image-6.1.0-58-arm64-unsigned
		linux-image-5.10.0-46-amd64 linux-image-5.10.0-9-amd64
		linux-image-6.12.9+deb13-amd64-unsigned linux-image-6.12.115+deb13-amd64-unsigned
		linux-image-6.12.115+deb13.1-amd64-unsigned linux-image-6.12.117+deb12-amd64-unsigned
		linux-image-6.12-amd64 linux-image-amd64
		linux-binary-7.2.13+deb14-amd64 linux-binary-unsigned-7.2.13+deb14-amd64
		linux-binary-7.10.1-amd64 linux-binary-7.2.13+deb14-rt-amd64 linux-binary-8.0.1+deb14-amd64`)
	want := map[string][]string{
		"5.10": {"linux-image-5.10.0-46-amd64", "linux-image-5.10.0-9-amd64"},
		"6.1":  {"linux-image-6.1.0-56-amd64-unsigned", "linux-image-6.1.0-56-amd64", "linux-image-6.1.0-9-amd64-unsigned"},
		"6.12": {"linux-image-6.12.115+deb13.1-amd64-unsigned", "linux-image-6.12.115+deb13-amd64-unsigned", "linux-image-6.12.9+deb13-amd64-unsigned"},
		"7":    {"linux-binary-7.10.1-amd64", "linux-binary-7.2.13+deb14-amd64"},
	}
	got := map[string][]string{}
	for _, s := range catalogue {
		got[s.name] = choose(names, regexp.MustCompile(strings.ReplaceAll(s.image, "ARCH", "amd64")))
		for _, n := range got[s.name] {
			if !strings.HasPrefix(n, s.prefix) {
				t.Errorf("%s is not found by the prefix %s", n, s.prefix)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFindSeries(t *testing.T) {
	for name, want := range map[string]string{"5.10": "5.10", "6.1": "6.1", "6.12": "6.12", "7": "7", "7.2": "7", "7.2.13": "7"} {
		s, err := findSeries(name, "amd64")
		if err != nil || s.name != want {
			t.Errorf("%s: series %q, error %v", name, s.name, err)
		}
	}
	for _, bad := range [][2]string{{"6", "amd64"}, {"6.120", "amd64"}, {"70", "amd64"}, {"", "amd64"}, {"6.1", "riscv64"}} {
		if s, err := findSeries(bad[0], bad[1]); err == nil {
			t.Errorf("%v: series %q and no error", bad, s.name)
		}
	}
}
