package progress

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRealFiles follows files of real runs in small pieces.
func TestRealFiles(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]struct {
		total int64
		// The loss of the last line that has one, rounded down.
		loss float64
	}{"trainer_log.jsonl": {80, 3.81}, "trainer_log_resumed.jsonl": {60, 4.33}} {
		data, err := os.ReadFile(filepath.Join("..", "testdata", "real", file))
		if err != nil {
			t.Fatal(err)
		}
		var cur []byte
		now, last := int64(1_000_000), int64(-1)
		sank := 0
		for len(data) > 0 {
			n := min(97, len(data))
			p, next := Read(data[:n], cur, 1, now, 990_000)
			data, cur, now = data[n:], next, now+300
			if p == nil {
				continue
			}
			if p.GetStep() < last {
				sank++
			}
			last = p.GetStep()
			if len(data) == 0 {
				if p.GetStep() != want.total || p.GetTotalSteps() != want.total || p.GetRemainingS() != 0 || p.GetLoss() < want.loss || p.GetLoss() >= want.loss+0.01 {
					t.Errorf("%s ends as %v", file, p)
				}
			} else if p.GetRemainingS() > 60 {
				t.Errorf("%s: %d s left at step %d", file, p.GetRemainingS(), p.GetStep())
			}
		}
		if resumed := file == "trainer_log_resumed.jsonl"; (sank == 1) != resumed {
			t.Errorf("%s: steps went back %d times", file, sank)
		}
	}
}
