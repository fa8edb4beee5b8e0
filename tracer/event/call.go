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

// Drops says whether the call gives up a descriptor that it names.
func (c Call) Drops() bool {
	switch c {
	case CallClose, CallCloseRange, CallDup2, CallExec, CallExit:
		return true
	}
	return false
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
	// 32-bit programs, and int 0x80: arch/x86/entry/syscalls/syscall_32.tbl. The
	// calls on sockets were one (socketcall, 102), whose first argument says which
	// (include/uapi/linux/net.h); the kernel half adds it from bit 16.
	"386": {
		6: CallClose, 436: CallCloseRange, 63: CallDup2, 330: CallDup2, 11: CallExec, 358: CallExec,
		1: CallExit, 252: CallExit, 373: CallShutdown, 362: CallConnect,
		4: CallSend, 146: CallSend, 181: CallSend, 187: CallSend, 239: CallSend, 345: CallSend, 369: CallSend, 370: CallSend,
		3: CallReceive, 145: CallReceive, 180: CallReceive, 337: CallReceive, 371: CallReceive, 372: CallReceive, 417: CallReceive,
		426:          CallIOUring,
		102 | 3<<16:  CallConnect,
		102 | 9<<16:  CallSend,
		102 | 10<<16: CallReceive,
		102 | 11<<16: CallSend,
		102 | 12<<16: CallReceive,
		102 | 13<<16: CallShutdown,
		102 | 16<<16: CallSend,
		102 | 17<<16: CallReceive,
		102 | 19<<16: CallReceive,
		102 | 20<<16: CallSend,
	},
	// arch/arm/tools/syscall.tbl.
	"arm": {
		6: CallClose, 436: CallCloseRange, 63: CallDup2, 358: CallDup2, 11: CallExec, 387: CallExec,
		1: CallExit, 248: CallExit, 293: CallShutdown, 283: CallConnect,
		4: CallSend, 146: CallSend, 181: CallSend, 187: CallSend, 239: CallSend, 289: CallSend, 290: CallSend, 296: CallSend, 374: CallSend,
		3: CallReceive, 145: CallReceive, 180: CallReceive, 291: CallReceive, 292: CallReceive, 297: CallReceive, 365: CallReceive, 417: CallReceive,
		426: CallIOUring,
	},
	// The numbers are amd64's but for calls whose structures differ (from 512).
	"x32": {520: CallExec, 545: CallExec, 515: CallReceive, 516: CallSend, 517: CallReceive, 518: CallSend, 519: CallReceive,
		534: CallReceive, 535: CallSend, 537: CallReceive, 538: CallSend},
}

// compat is the architecture whose numbers a 32-bit call has.
var compat = map[string]string{"amd64": "386", "arm64": "arm"}

// CallOfTask names a system call number, by what is known of the task.
func CallOfTask(arch string, number int32, task TaskFlag) Call {
	switch {
	case task&TaskCompat != 0:
		return CallOf(compat[arch], number)
	case task&TaskX32 != 0 && number >= 512:
		return CallOf("x32", number)
	}
	return CallOf(arch, number)
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

// NumberOf is a number of a call on an architecture, the lowest; -1: it has none.
func NumberOf(arch string, c Call) int32 {
	number := int32(-1)
	for n, x := range calls[arch] {
		if x == c && (number < 0 || n < number) {
			number = n
		}
	}
	return number
}
