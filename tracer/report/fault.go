package report

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/fault"
)

// FaultSchema is the version of FaultRecord.
const FaultSchema = "tcpbye.test/1"

// FaultRecord is the JSON record of a test's fault.
type FaultRecord struct {
	Schema     string     `json:"schema"`
	Kind       string     `json:"kind"`
	At         *string    `json:"at"`
	Local      *string    `json:"local"`
	Remote     *string    `json:"remote"`
	PID        *uint32    `json:"pid"`
	Comm       *string    `json:"comm"`
	File       *string    `json:"file"` // relative to the root where it lies below
	Line       *int       `json:"line"`
	Function   *string    `json:"function"`
	Test       *string    `json:"test"`
	Sentence   string     `json:"sentence"`
	Advice     *string    `json:"advice"`
	Lost       LostRecord `json:"lost"`
	Confidence string     `json:"confidence"`
}

// FaultsJSON are the faults of a run, one on a line.
func FaultsJSON(f *fault.Finder, clock Clock) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	faults := f.Faults()
	for i := range faults {
		x := &faults[i]
		r := FaultRecord{
			Schema: FaultSchema, Kind: x.Kind, At: wallRecord(x.At, clock), Local: addrRecord(x.Local), Remote: addrRecord(x.Remote),
			Line: known(x.Place.Line), Function: known(x.Place.Function), Test: known(x.Test), Sentence: x.Sentence, Advice: known(x.Advice),
			Lost: LostRecord(x.Lost), Confidence: string(x.Confidence),
		}
		file, _ := f.Relative(x.Place.File)
		if x.Place.File != "" {
			r.File = &file
		}
		if a := x.Actor; a != nil {
			r.PID, r.Comm = event.PIDHere(a.PID), known(a.Comm)
		}
		if err := enc.Encode(r); err != nil {
			return nil, fmt.Errorf("make JSON: %w", err)
		}
	}
	return b.Bytes(), nil
}
