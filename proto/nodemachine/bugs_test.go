//go:build fettlebugs

package nodemachine

import "testing"

// TestSeededBugsAreFound shows that the world of faults can see what it claims to see.
func TestSeededBugsAreFound(t *testing.T) {
	for name := range bugs {
		if err := SetBug(name, true); err != nil {
			t.Fatal(err)
		}
		found := false
		for seed := uint64(0); seed < 3_000 && !found; seed++ {
			if err := newWorld(seeded(seed)).run(400); err != nil {
				t.Logf("%s: seed %d: %v", name, seed, err)
				found = true
			}
		}
		if !found {
			t.Errorf("%s was not found", name)
		}
		if err := SetBug(name, false); err != nil {
			t.Fatal(err)
		}
	}
}
