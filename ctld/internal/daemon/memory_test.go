package daemon

import "testing"

func TestGarbageIsBoundedByTheJobTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		live    uint64
		percent int
	}{{0, 1600}, {4 << 20, 400}, {16 << 20, 100}, {64 << 20, 25}, {1 << 40, 25}} {
		if got := gcPercent(c.live); got != c.percent {
			t.Errorf("%d live bytes: %d %%, want %d %%", c.live, got, c.percent)
		}
	}
}
