package event

// Call is the system call that a task is in, as far as it tells one act from
// another. Numbers differ by architecture, so decoding names them.
type Call uint8

const (
	CallUnknown Call = iota // not known
	CallNone                // in no system call
	CallOther
	CallClose
	CallCloseRange
	CallDup2 // dup2, dup3
	CallExec // execve, execveat
	CallExit // exit, exit_group
	CallShutdown
	CallConnect
	CallSend    // write, sendto, sendmsg and their like
	CallReceive // read, recvfrom, recvmsg and their like
	CallIOUring // io_uring_enter
)

var callNames = [...]string{"unknown", "none", "other", "close", "close_range", "dup2", "exec",
	"exit", "shutdown", "connect", "send", "receive", "io_uring_enter"}

func (c Call) String() string {
	if int(c) < len(callNames) {
		return callNames[c]
	}
	return "unknown"
}

// Ends says whether the call can end a connection.
func (c Call) Ends() bool {
	switch c {
	case CallClose, CallCloseRange, CallDup2, CallExec, CallExit, CallShutdown, CallConnect, CallIOUring:
		return true
	}
	return false
}

// System call numbers: arch/x86/entry/syscalls/syscall_64.tbl and
// include/uapi/asm-generic/unistd.h.
var calls = map[string]map[int32]Call{
	"amd64": {
		3: CallClose, 436: CallCloseRange, 33: CallDup2, 292: CallDup2, 59: CallExec, 322: CallExec,
		60: CallExit, 231: CallExit, 48: CallShutdown, 42: CallConnect,
		1: CallSend, 18: CallSend, 20: CallSend, 40: CallSend, 44: CallSend, 46: CallSend, 307: CallSend,
		0: CallReceive, 19: CallReceive, 45: CallReceive, 47: CallReceive, 299: CallReceive,
		426: CallIOUring,
	},
	"arm64": {
		57: CallClose, 436: CallCloseRange, 24: CallDup2, 221: CallExec, 281: CallExec,
		93: CallExit, 94: CallExit, 210: CallShutdown, 203: CallConnect,
		64: CallSend, 66: CallSend, 71: CallSend, 206: CallSend, 211: CallSend, 269: CallSend,
		63: CallReceive, 65: CallReceive, 207: CallReceive, 212: CallReceive, 243: CallReceive,
		426: CallIOUring,
	},
}

// CallOf names a system call number of an architecture (as Go spells it).
func CallOf(arch string, number int32) Call {
	if number < 0 {
		return CallNone
	}
	table, ok := calls[arch]
	if !ok {
		return CallUnknown
	}
	if c, ok := table[number]; ok {
		return c
	}
	return CallOther
}
