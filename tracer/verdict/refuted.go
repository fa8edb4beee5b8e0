package verdict

import "slices"

// refines are the causes that one end may name with certainty although both ends
// together have another: it claims less, and the joint cause says more of the same.
// What each claims stands in the package's documentation.
var refines = map[Cause][]Cause{
	OrderlyClose:   {HalfClose, SimultaneousClose},
	ConnectTimeout: {AcceptOverflow},
	StillOpen:      {CloseWaitLeak, FinWait2Held, FinStuck, DescriptorHeld, NeverAccepted},
	CloseWaitLeak:  {FinWait2Held, FinStuck},
}

// Refuted says in what the verdict of both ends together refutes v, the verdict on one
// of them that was given without the other; nil: in nothing.
func (v *Verdict) Refuted(both *Verdict) (in []string) {
	if v.Class != both.Class {
		in = append(in, "class")
	}
	if v.Cause != both.Cause && !slices.Contains(refines[v.Cause], both.Cause) {
		in = append(in, "cause")
	}
	// Of a peer on another machine it cannot be told who it was, and an ender that is not
	// known is none.
	remote := v.Ender == Peer && (both.Ender == PeerProcess || both.Ender == PeerKernel)
	if v.Ender != both.Ender && !remote && v.Ender != NoEnder {
		in = append(in, "ender")
	}
	// Why an end stands open may be an act at the other one.
	if v.Act != both.Act && v.Act != NoAct {
		in = append(in, "act")
	}
	for _, n := range []struct {
		name      string
		one, both *uint64
	}{{"unread", v.Lost.Unread, both.Lost.Unread}, {"unsent", v.Lost.Unsent, both.Lost.Unsent}, {"unacked", v.Lost.Unacked, both.Lost.Unacked}} {
		if n.one != nil && n.both != nil && *n.one != *n.both {
			in = append(in, n.name)
		}
	}
	if v.Harmless && !both.Harmless {
		in = append(in, "harmless")
	}
	return in
}
