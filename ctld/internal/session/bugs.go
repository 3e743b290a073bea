//go:build !fettlebugs

package session

import "github.com/fettle-hpc/fettle/ctld/internal/state"

// Seeded bugs are compiled out; with the build tag fettlebugs the simulation turns them on one by one.
const (
	bugAckBeforeCommit   = false
	bugLeaseUnverified   = false
	bugNoGrace           = false
	bugMissingMeansEnded = false
)

func (*Machine) endMissing(*conn, *state.Snapshot) []Output { return nil }
