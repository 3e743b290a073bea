package nodemachine

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func seeded(seed uint64) func(int) int {
	r := rand.New(rand.NewPCG(seed, 7))
	return r.IntN
}

func TestFaultsInAnyOrder(t *testing.T) {
	t.Parallel()
	seeds := uint64(1_500)
	if testing.Short() {
		seeds = 300
	}
	for seed := range seeds {
		if err := newWorld(seeded(seed)).run(400); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestFaultsShrunk is the same world driven by rapid, which shrinks what it finds.
func TestFaultsShrunk(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") })
		if err := w.run(rapid.IntRange(1, 150).Draw(t, "steps")); err != nil {
			t.Fatal(err)
		}
	})
}
