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

const pfKthread = 0x00200000

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
	fields := bytes.Fields(b[shut+1:])
	// fields[0] is field 3 of proc_pid_stat(5).
	if len(fields) < 26 || len(fields[0]) != 1 {
		return s, errStat
	}
	s.state = fields[0][0]
	for _, f := range []struct {
		number int
		to     *uint64
	}{{9, &s.flags}, {22, &s.start}, {23, &s.vsize}, {26, &s.startCode}, {28, &s.startStack}} {
		v, err := strconv.ParseUint(string(fields[f.number-3]), 10, 64)
		if err != nil {
			return s, errStat
		}
		*f.to = v
	}
	return s, nil
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
