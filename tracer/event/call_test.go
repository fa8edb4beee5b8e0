package event

import "testing"

// TestCallOfTask: a call of another width has other numbers.
func TestCallOfTask(t *testing.T) {
	for _, x := range []struct {
		arch   string
		number int32
		task   TaskFlag
		want   Call
	}{
		{"amd64", 3, 0, CallClose},
		{"amd64", 3, TaskCompat, CallReceive},
		{"amd64", 63, TaskCompat, CallDup2},
		{"amd64", 330, TaskCompat, CallDup2},
		{"amd64", 6, TaskCompat, CallClose},
		{"amd64", 11, TaskCompat, CallExec},
		{"amd64", 252, TaskCompat, CallExit},
		{"amd64", 373, TaskCompat, CallShutdown},
		{"amd64", 102 | 13<<16, TaskCompat, CallShutdown},
		{"amd64", 102 | 3<<16, TaskCompat, CallConnect},
		{"amd64", 102 | 1<<16, TaskCompat, CallOther},
		{"amd64", 362, TaskCompat, CallConnect},
		{"amd64", 436, TaskX32, CallCloseRange},
		{"amd64", 520, TaskX32, CallExec},
		{"arm64", 6, TaskCompat, CallClose},
		{"arm64", 63, TaskCompat, CallDup2},
		{"arm64", 57, 0, CallClose},
		{"riscv64", 57, TaskCompat, CallUnknown},
	} {
		if got := CallOfTask(x.arch, x.number, x.task); got != x.want {
			t.Errorf("%s %d (%d): %v, not %v", x.arch, x.number, x.task, got, x.want)
		}
	}
}
