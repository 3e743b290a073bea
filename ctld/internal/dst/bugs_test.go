//go:build fettlebugs

package dst

import (
	"fmt"
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/session"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// nodeBugs are the faults seeded in the node machine.
var nodeBugs = []string{"intent_not_synced", "no_tombstone", "exit_forgotten_before_ack", "obeys_old_session", "start_twice", "lease_ignored"}

// TestSeededBugsAreFound puts one bug at a time into the code and counts the seeds until the simulation sees it.
// Run it with: go test -tags fettlebugs ./ctld/internal/dst -run TestSeededBugsAreFound -v
func TestSeededBugsAreFound(t *testing.T) {
	const enough = 1500
	type bug struct {
		name string
		set  func(on bool)
	}
	var all []bug
	for _, name := range fsm.Bugs() {
		all = append(all, bug{"fsm/" + name, func(on bool) {
			if on {
				fsm.SetBug(name)
			} else {
				fsm.SetBug("")
			}
		}})
	}
	for _, name := range nodeBugs {
		all = append(all, bug{"nodemachine/" + name, func(on bool) {
			if err := nodemachine.SetBug(name, on); err != nil {
				t.Fatal(err)
			}
		}})
	}
	for _, name := range session.Bugs() {
		all = append(all, bug{"session/" + name, func(on bool) {
			if err := session.SetBug(name, on); err != nil {
				t.Fatal(err)
			}
		}})
	}
	found := 0
	for _, b := range all {
		b.set(true)
		seed, err := firstFailure(enough)
		b.set(false)
		if err == nil {
			t.Logf("%-45s NOT found in %d seeds", b.name, enough)
			continue
		}
		found++
		t.Logf("%-45s found by seed %4d: %s", b.name, seed, err.(*Violation).What)
	}
	fmt.Printf("%d of %d seeded bugs found\n", found, len(all))
	if found < 10 || found*10 < len(all)*9 {
		t.Errorf("only %d of %d seeded bugs found", found, len(all))
	}
}

func firstFailure(n uint64) (uint64, error) {
	for seed := uint64(1); seed <= n; seed++ {
		if _, err := Run(Config{Seed: seed}); err != nil {
			return seed, err
		}
	}
	return 0, nil
}
