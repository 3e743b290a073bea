package fsm

import (
	"flag"
	"testing"

	"pgregory.net/rapid"
)

func init() {
	// Long enough for gangs to be dispatched, fenced and retried; the command line overrides it.
	if err := flag.Set("rapid.steps", "80"); err != nil {
		panic(err)
	}
}

// Random histories with lost nodes, late and false reports, stale plans and repeated requests keep the invariants:
// nothing accepted is lost (I1), no two attempts of a job at once (I2), no GPU twice and nothing beyond the inventory
// (I3, I4), the one table of states (I5), one job per key (I7), replicas equal however they came there (I8).
func TestWorld(t *testing.T) { rapid.Check(t, worldProperty) }
