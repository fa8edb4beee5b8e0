package enrich

import (
	"bytes"
	"errors"
	"strconv"
)

// stat is what /proc/PID/stat tells of a process (proc_pid_stat(5)).
type stat struct {
	comm       string
	state      byte
	flags      uint64 // PF_*
	start      uint64 // clock ticks after boot, CLOCK_BOOTTIME
	vsize      uint64 // bytes of address space
	startCode  uint64 // 1 where ptrace is not allowed
	startStack uint64 // 0 where ptrace is not allowed
}

// image is what changes when the process executes another program.
type image struct {
	start, startCode, startStack uint64
}

func (s *stat) image() image { return image{s.start, s.startCode, s.startStack} }

// ended says whether the task gave its address space back (zombie, dead).
func (s *stat) ended() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

var errStat = errors.New("not the shape of /proc/PID/stat")

// parseStat reads a stat file. A comm may hold spaces, parentheses and line
// ends, which stat (unlike status) does not escape, so its end is the last
// parenthesis of the file: what follows is numbers.
func parseStat(b []byte) (stat, error) {
	var s stat
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || shut < open {
		return s, errStat
	}
	s.comm = string(b[open+1 : shut])
	number := 2 // as proc_pid_stat(5) numbers the fields
	for field := range bytes.FieldsSeq(b[shut+1:]) {
		var to *uint64
		switch number++; number {
		case 3:
			if len(field) != 1 {
				return s, errStat
			}
			s.state = field[0]
			continue
		case 9:
			to = &s.flags
		case 22:
			to = &s.start
		case 23:
			to = &s.vsize
		case 26:
			to = &s.startCode
		case 28:
			to = &s.startStack
		default:
			continue
		}
		v, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return s, errStat
		}
		if *to = v; number == 28 {
			return s, nil
		}
	}
	return s, errStat
}

// parseStatus reads the effective user and the PID in the innermost namespace
// from /proc/PID/status. Kernels built without PID namespaces have no NSpid.
func parseStatus(b []byte) (uid uint32, nspid uint32, ok bool) {
	for line := range bytes.Lines(b) {
		key, value, found := bytes.Cut(line, []byte{':'})
		if !found {
			continue
		}
		fields := bytes.Fields(value)
		switch string(key) {
		case "Uid": // real, effective, saved, file system
			if len(fields) != 4 {
				return 0, 0, false
			}
			v, err := strconv.ParseUint(string(fields[1]), 10, 32)
			if err != nil {
				return 0, 0, false
			}
			uid, ok = uint32(v), true
		case "NSpid":
			if len(fields) == 0 {
				return 0, 0, false
			}
			v, err := strconv.ParseUint(string(fields[len(fields)-1]), 10, 32)
			if err != nil {
				return 0, 0, false
			}
			nspid = uint32(v)
		}
	}
	return uid, nspid, ok
}
