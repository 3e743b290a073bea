package progress

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Lines of a real run of 69 steps.
const (
	line2  = `{"current_steps": 2, "total_steps": 69, "loss": 6.936, "lr": 0.000985, "epoch": 0.0869, "percentage": 2.9, "elapsed_time": "0:00:00", "remaining_time": "0:00:06"}` + "\n"
	line69 = `{"current_steps": 69, "total_steps": 69, "epoch": 3.0, "percentage": 100.0, "elapsed_time": "0:00:05", "remaining_time": "0:00:00"}` + "\n"
)

func at(step, total int, loss float64, elapsed string) string {
	return fmt.Sprintf(`{"current_steps": %d, "total_steps": %d, "loss": %g, "lr": 0.0001, "epoch": 0.5, "percentage": 1.0, "elapsed_time": %q, "remaining_time": "9:99:99"}`+"\n", step, total, loss, elapsed)
}

func TestRead(t *testing.T) {
	t.Parallel()
	const start = 1_000_000
	type call struct {
		data string
		now  int64
	}
	p := func(step, total int64, loss float64, remaining, updated int64) *fettlev1.Progress {
		return &fettlev1.Progress{Step: step, TotalSteps: total, Loss: proto.Float64(loss), LearningRate: proto.Float64(0.0001), Epoch: proto.Float64(0.5), RemainingS: remaining, UpdatedMs: updated, Attempt: 2}
	}
	tests := []struct {
		name  string
		calls []call
		want  *fettlev1.Progress
	}{
		{"nothing yet", []call{{"", start + 1}}, nil},
		{"half a line", []call{{line2[:50], start + 1}}, nil},
		{"one line tells no pace", []call{{at(10, 100, 2.5, "0:00:10"), start + 12_000}}, p(10, 100, 2.5, -1, start+12_000)},
		{"two lines", []call{{at(10, 100, 2.5, "0:00:10") + at(20, 100, 2.25, "0:00:30"), start + 40_000}}, p(20, 100, 2.25, 160, start+40_000)},
		{"a line in two pieces", []call{{at(10, 100, 2.5, "0:00:10")[:33], start + 20_000}, {at(10, 100, 2.5, "0:00:10")[33:], start + 21_000}}, p(10, 100, 2.5, -1, start+21_000)},
		{"no news keeps the time", []call{{at(10, 100, 2.5, "0:00:10") + at(20, 100, 2.25, "0:00:30"), start + 40_000}, {"", start + 90_000}}, p(20, 100, 2.25, 160, start+40_000)},
		{"steps under a second, seen by arrival", []call{{at(10, 110, 2.5, "0:00:00"), start + 1000}, {at(20, 110, 2.25, "0:00:00"), start + 1500}}, p(20, 110, 2.25, 5, start+1500)},
		{"the last line has no loss", []call{{at(60, 69, 6.5, "0:00:04"), start + 5000}, {line69, start + 6000}}, func() *fettlev1.Progress {
			q := p(69, 69, 6.5, 0, start+6000)
			q.Epoch = proto.Float64(3)
			return q
		}()},
		{"resumed: the trainer's own remaining time is not believed", []call{
			{at(500, 1000, 2.5, "0:00:02"), start + 3000}, {at(510, 1000, 2.4, "0:00:12"), start + 13_000},
		}, p(510, 1000, 2.4, 490, start+13_000)},
		{"lines of an earlier attempt", []call{
			{at(10, 1000, 2.5, "1:00:00") + at(20, 1000, 2.4, "1:00:10"), start + 1000},
		}, nil},
		{"an earlier attempt's short lines, then ours", []call{
			{at(30, 100, 2.5, "0:00:03") + at(40, 100, 2.4, "0:00:04") + at(35, 100, 2.3, "0:00:01") + at(45, 100, 2.2, "0:00:11"), start + 20_000},
		}, p(45, 100, 2.2, 55, start+20_000)},
		{"pace of the newest lines", func() []call {
			var text strings.Builder
			for i := range 40 {
				text.WriteString(at(i+1, 200, 2, fmt.Sprintf("0:00:%02d", i+1)))
			}
			for i := range 40 {
				text.WriteString(at(41+i, 200, 2, fmt.Sprintf("0:%02d:00", i+1)))
			}
			return []call{{text.String(), start + 9_000_000}}
		}(), p(80, 200, 2, 7200, start+9_000_000)},
		{"garbage between", []call{{"\x00\x01\n{}\n[1]\nnull\n{\"current_steps\": \"x\"}\n{\"current_steps\": -5}\n{\"current_steps\": 1e30}\n" + at(10, 100, 2.5, "0:00:10"), start + 12_000}}, p(10, 100, 2.5, -1, start+12_000)},
		{"a line without end", []call{{strings.Repeat("x", 3*maxLine), start + 1}, {"yyy\n" + at(10, 100, 2.5, "0:00:10"), start + 12_000}}, p(10, 100, 2.5, -1, start+12_000)},
		{"days", []call{{at(10, 100, 2.5, "1 day, 0:00:00") + at(20, 100, 2.5, "2 days, 0:00:00"), start + 200_000_000}}, p(20, 100, 2.5, 8*86400, start+200_000_000)},
		{"no total", []call{{`{"current_steps": 5, "loss": 2.5, "lr": 0.0001, "epoch": 0.5}` + "\n", start + 1}}, p(5, 0, 2.5, -1, start+1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got *fettlev1.Progress
			var cur []byte
			for _, c := range tt.calls {
				got, cur = Read([]byte(c.data), cur, 2, c.now, start)
			}
			if !proto.Equal(got, tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
		})
	}
}

func TestLossThatIsNoNumber(t *testing.T) {
	t.Parallel()
	p, cur := Read([]byte(at(10, 100, 2.5, "0:00:10")), nil, 1, 20_000, 1)
	if p.Loss == nil {
		t.Fatal("no loss")
	}
	nan := strings.Replace(at(20, 100, 1, "0:00:20"), `"loss": 1`, `"loss": NaN`, 1)
	p, cur = Read([]byte(nan), cur, 1, 30_000, 1)
	if p.GetStep() != 20 || p.Loss != nil {
		t.Errorf("NaN: %v; want step 20 without a loss", p)
	}
	p, _ = Read([]byte(strings.Replace(at(30, 100, 1, "0:00:30"), `"lr": 0.0001`, `"lr": -Infinity`, 1)), cur, 1, 40_000, 1)
	if p.GetStep() != 30 || p.GetLoss() != 1 {
		t.Errorf("infinite rate: %v; want step 30, loss 1", p)
	}
}

func TestCursorOfAnotherAttempt(t *testing.T) {
	t.Parallel()
	_, cur := Read([]byte(at(10, 100, 2.5, "0:00:10")+`{"current_`), nil, 1, 20_000, 1)
	if p, _ := Read(nil, cur, 2, 20_000, 1); p != nil {
		t.Errorf("attempt 2 starts with %v", p)
	}
	for _, bad := range []string{"x", "{", `{"a":1,"w":"x"}`, "null"} {
		if p, _ := Read([]byte(line2), []byte(bad), 1, 1000, 1); p.GetStep() != 2 {
			t.Errorf("cursor %q: %v", bad, p)
		}
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0:00:00": 0, "0:01:05": 65_000, "12:00:00": 43_200_000, "1 day, 1:00:00": 90_000_000, "3 days, 0:00:01": 259_201_000,
		"": -1, "5": -1, "0:00": -1, "-1:00:00": -1, "a:b:c": -1, "99999999999:00:00": -1, "1 day, ": -1,
	} {
		if got := duration(text); got != want {
			t.Errorf("duration(%q) = %d, want %d", text, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(line2+line69), 20, int64(5000))
	f.Add([]byte(at(10, 100, 2.5, "0:00:10")+at(20, 100, 2.25, "0:00:30")+at(15, 100, 2, "0:00:01")), 100, int64(0))
	f.Add([]byte(strings.Replace(line2, "6.936", "NaN", 1)), 1, int64(1))
	f.Add([]byte("{\"current_steps\": 9223372036854775807}\n\n\n{"), 3, int64(9))
	f.Fuzz(func(t *testing.T, data []byte, cut int, start int64) {
		const now = 1 << 41
		start = max(0, min(start, now))
		whole, cur := Read(data, nil, 1, now, start)
		if len(cur) > 4*maxLine {
			t.Fatalf("cursor of %d bytes", len(cur))
		}
		if !json.Valid(cur) {
			t.Fatalf("cursor %q", cur)
		}
		cut = max(0, min(cut, len(data)))
		_, first := Read(data[:cut], nil, 1, now, start)
		pieces, second := Read(data[cut:], first, 1, now, start)
		if !proto.Equal(whole, pieces) || string(cur) != string(second) {
			t.Fatalf("in one piece %v, cut at %d %v", whole, cut, pieces)
		}
		if whole == nil {
			return
		}
		if whole.Step < 0 || whole.TotalSteps < 0 || whole.RemainingS < -1 {
			t.Fatalf("negative: %v", whole)
		}
		for _, v := range []*float64{whole.Loss, whole.LearningRate, whole.Epoch} {
			if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
				t.Fatalf("not a number: %v", whole)
			}
		}
	})
}
