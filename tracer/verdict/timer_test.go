package verdict

import (
	"testing"
	"time"
)

func TestFindTimeouts(t *testing.T) {
	for _, x := range []struct {
		span Span
		d    time.Duration
		want string // one of the programs; "" none
	}{
		{SpanIdle, 5003 * time.Millisecond, "Apache httpd"},
		{SpanIdle, 4990 * time.Millisecond, "uvicorn"}, // a jiffy of 10 ms
		{SpanIdle, 4900 * time.Millisecond, ""},
		{SpanIdle, 5200 * time.Millisecond, ""},
		{SpanIdle, 60200 * time.Millisecond, "nginx"},
		{SpanIdle, 350900 * time.Millisecond, "AWS Network Load Balancer"},
		{SpanIdle, 900500 * time.Millisecond, "Linux IPVS"},
		{SpanAge, 5 * time.Second, ""},
		{SpanAge, 3600100 * time.Millisecond, "PgBouncer"},
		{SpanConnect, 131 * time.Second, "Linux from 6.5"},
		{SpanIdle, 0, ""},
	} {
		found := FindTimeouts(x.span, x.d)
		ok := x.want == "" && len(found) == 0
		for _, f := range found {
			ok = ok || f.Program == x.want
		}
		if !ok {
			t.Errorf("%v of %v: %v, want %q", x.span, x.d, found, x.want)
		}
	}
}

func TestTimeoutsAreComplete(t *testing.T) {
	seen := map[Timeout]bool{}
	for _, x := range timeouts {
		if x.Period <= 0 || x.Program == "" || x.Setting == "" || seen[x] {
			t.Errorf("%+v", x)
		}
		seen[x] = true
	}
}

// TestCanBe: a timer is named after a program only where a process can be one.
func TestCanBe(t *testing.T) {
	for _, x := range []struct {
		program string
		all     bool
		names   []string
		want    bool
	}{
		{"nginx", true, []string{"nginx", "gunicorn"}, true},
		{"nginx", true, []string{"curl", "python3"}, false},
		{"nginx", true, []string{"curl", ""}, true}, // who it is was not seen
		{"nginx", false, []string{"curl"}, true},    // the other end may be one
		{"uvicorn", true, []string{"curl", "python3"}, true},
		{"Go net/http client", true, []string{"nginx", "node"}, false},
		{"Go net/http client", true, []string{"myservice", "node"}, true},
		{"AWS Network Load Balancer", true, []string{"nginx", "node"}, false},
		{"AWS Network Load Balancer", false, []string{"nginx"}, true},
		{"Linux conntrack", true, []string{"a", "b"}, true},
	} {
		found := false
		for _, timeout := range timeouts {
			if timeout.Program != x.program {
				continue
			}
			if found = true; timeout.CanBe(x.all, x.names...) != x.want {
				t.Errorf("%s, %v, all %v: want %v", x.program, x.names, x.all, x.want)
			}
		}
		if !found {
			t.Errorf("there is no %s", x.program)
		}
	}
}
