package sched

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func kinds(w Why) (list []ChangeKind) {
	for _, c := range w.Changes {
		list = append(list, c.Kind)
	}
	return list
}

func change(t *testing.T, w Why, k ChangeKind) Change {
	t.Helper()
	for _, c := range w.Changes {
		if c.Kind == k {
			return c
		}
	}
	t.Fatalf("no change of kind %d in %+v", k, w.Changes)
	return Change{}
}

func TestWhyNamesWhatItWaitsForAndWhatWouldHelp(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{}, Partition{Name: "main", Allows: func(n string) bool { return n != "d1" }, Preempt: PreemptRequeue, Budget: 1, PriorityGap: 1}, Partition{Name: "dev", Allows: func(n string) bool { return n == "d1" }})
	w.SetNode(node("n1", "h100", 4))
	w.SetNode(node("n2", "a100", 4))
	w.SetNode(node("d1", "h100", 4))
	end := int64(hour + 30*60_000)
	runs := w.runs("n1", []int{0, 1}, week, endsAt(end))
	job := w.job(typed("h100", 4), func(j *Job) { j.Priority, j.Score = 1, 1 })
	why := w.Why(job, hour)
	if why.Reason != fettlev1.Reason_REASON_RESOURCES || !slices.Equal(why.Running, []uint64{runs}) || why.ShadowMS != end {
		t.Errorf("why: %+v", why)
	}
	if c := change(t, why, ChangeGPUs); c.GPUs != 2 || c.Text != "with 2 h100" {
		t.Errorf("fewer GPUs: %+v, want the most that would start", c)
	}
	if c := change(t, why, ChangeType); c.Type != "a100" {
		t.Errorf("other type: %+v", c)
	}
	if c := change(t, why, ChangePartition); c.Partition != "dev" {
		t.Errorf("other partition: %+v", c)
	}
	if c := change(t, why, ChangePreempt); !slices.Equal(c.Victims, []uint64{runs}) {
		t.Errorf("preempting: %+v", c)
	}
	if slices.Contains(kinds(why), ChangeLimit) {
		t.Errorf("a time limit frees no GPUs: %+v", why.Changes)
	}
	// The one behind could go ahead if it were short.
	behind := w.job(typed("h100", 1))
	why = w.Why(behind, hour)
	if why.Reason != fettlev1.Reason_REASON_PRIORITY || !slices.Equal(why.Behind, []uint64{job}) {
		t.Errorf("why: %+v", why)
	}
	if c := change(t, why, ChangeLimit); c.LimitS != 1800 {
		t.Errorf("shorter: %+v, want what is left until job %d starts", c, job)
	}
	if got := w.Why(12345, hour); got.Reason != 0 || len(got.Changes) != 0 {
		t.Errorf("an unknown job waits: %+v", got)
	}
}

func TestWhyOfPinsAndLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	w.SetNode(node("n2", "h100", 4))
	w.runs("n1", []int{0, 1, 2, 3}, endsAt(now+100_000))
	pinned := w.job(Needs{Request: place.Request{GPUs: 1, Nodelist: []string{"n1"}}})
	if got := kinds(w.Why(pinned, now)); !slices.Equal(got, []ChangeKind{ChangeNodelist}) {
		t.Errorf("changes %v", got)
	}
	w.Remove(pinned)
	w.SetPolicy(Policy{Partitions: []Partition{{Name: "main"}}, UserDefault: Limits{GPUs: 6}})
	job := w.job(gpus(3))
	why := w.Why(job, now)
	if why.Reason != fettlev1.Reason_REASON_LIMIT_USER {
		t.Errorf("why %+v", why)
	}
	if c := change(t, why, ChangeGPUs); c.GPUs != 2 {
		t.Errorf("change %+v", c)
	}
	w.SetPolicy(Policy{Partitions: []Partition{{Name: "main"}}})
	if why := w.Why(job, now); why.Reason != 0 {
		t.Errorf("a job that starts now waits: %+v", why)
	}
}

// Every change that is proposed starts the job when it is made, and asking changes nothing.
func TestChangesHold(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	for i := range 4 {
		w.SetNode(node(fmt.Sprintf("n%d", i), []string{"h100", "a100"}[i%2], 8))
		w.runs(fmt.Sprintf("n%d", i), []int{0, 1, 2, 3, 4}[:i+1], endsAt(now+int64(i+1)*600_000))
	}
	var ids []uint64
	for i := range 12 {
		ids = append(ids, w.job(Needs{Request: place.Request{GPUs: 1 + i%8, Nodes: 1 + i%3, GPUType: []string{"", "h100", "a100"}[i%3]}}, func(j *Job) { j.LimitS = int64(i) * 1000 }))
	}
	was := describe(w.Plan(now))
	for _, id := range ids {
		why := w.Why(id, now)
		for _, c := range why.Changes {
			j, _ := w.Job(id)
			n, changed := *j.Needs, j
			switch c.Kind {
			case ChangeGPUs:
				n.Request.GPUs = c.GPUs
			case ChangeNodes:
				n.Request.Nodes = c.Nodes
			case ChangeType:
				n.Request.GPUType = c.Type
			case ChangeLimit:
				changed.LimitS = c.LimitS
			default:
				t.Fatalf("job %d: %+v", id, c)
			}
			changed.Needs = &n
			w.SetJob(changed)
			if p := w.Plan(now); !slices.Contains(started(p), id) {
				t.Errorf("job %d does not start %s", id, c.Text)
			}
			w.SetJob(j)
		}
	}
	w.Forecast(now, 86_400_000)
	if got := describe(w.Plan(now)); got != was {
		t.Errorf("plan before\n%s\nafter\n%s", was, got)
	}
}

func TestForecast(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	w.runs("n1", []int{0, 1, 2, 3}, endsAt(now+1_000_000))
	first := w.job(gpus(4), func(j *Job) { j.EstimateS = 2000 })
	second := w.job(gpus(2), limit(500))
	third := w.job(gpus(4))
	far := w.job(gpus(4))
	impossible := w.job(gpus(5))
	f := w.Forecast(now, 5_000_000)
	for id, want := range map[uint64]int64{first: now + 1_000_000, second: now + 3_000_000, third: now + 3_500_000} {
		got := f[id]
		if got.AtMS != want {
			t.Errorf("job %d starts at %d, want %d", id, got.AtMS, want)
		}
		if got.LowMS > got.AtMS || got.HighMS != 0 && got.HighMS < got.AtMS || !slices.Equal(got.Nodes, []string{"n1"}) {
			t.Errorf("job %d: %+v", id, got)
		}
	}
	if f[first].LowMS != now+500_000 || f[first].HighMS != now+2_000_000 {
		t.Errorf("bounds of the first: %+v", f[first])
	}
	for _, id := range []uint64{far, impossible} {
		if s, ok := f[id]; ok {
			t.Errorf("job %d starts at %d, beyond the horizon", id, s.AtMS)
		}
	}
	if all, part, _ := w.Position(third); all != 2 || part != 2 {
		t.Errorf("position %d, %d in its partition, want 2 ahead", all, part)
	}
}

func TestForecastOfAnArray(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 2))
	array := w.job(gpus(1), func(j *Job) { j.Array, j.ArrayMax, j.EstimateS = []Range{{1, 9, 2}}, 1, 100 })
	after := w.job(gpus(2))
	f := w.Forecast(now, 10_000_000)
	if f[array].AtMS != now || f[after].AtMS < now+500_000 {
		t.Errorf("array %+v, after it %+v", f[array], f[after])
	}
	if j, ok := w.Job(array); !ok || len(j.Array) != 1 || w.Running() != 0 {
		t.Errorf("the forecast left %+v, %d running", j.Array, w.Running())
	}
}

func TestForecastLeavesThePlanAlone(t *testing.T) {
	t.Parallel()
	w := preemptible()
	for i, n := range []string{"n1", "n2"} {
		w.runs(n, []int{0, 1, 2}, week, endsAt(hour+int64(i+1)*1_000_000))
	}
	for i := range 10 {
		w.job(gpus(1+i%4), func(j *Job) { j.Preempt, j.Priority = i%3 == 0, uint32(1+i) })
	}
	was := describe(w.Plan(hour))
	w.Forecast(hour, 1_000_000_000)
	if got := describe(w.Plan(hour)); got != was {
		t.Errorf("plan before\n%s\nafter\n%s", was, got)
	}
}
