package attempt

import (
	"testing"

	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// BenchmarkNoOpJobs starts, ends and forgets jobs that do nothing, some of them at a time.
func BenchmarkNoOpJobs(b *testing.B) {
	for _, c := range []struct {
		name  string
		slots int
		opts  []option
	}{{"one", 1, nil}, {"64", 64, nil}, {"64 without cgroups", 64, []option{withoutGroups}}} {
		slots := c.slots
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b, c.opts...)
			next, inFlight, done := uint64(0), 0, 0
			for done < b.N {
				for inFlight < slots && int(next) < b.N {
					next++
					s := r.job(next, sh("exit 0"))
					s.Prepare.Spec.StdoutPath = "/dev/null"
					r.m.Start(s)
					inFlight++
				}
				switch e := (<-r.m.Events()).(type) {
				case nodemachine.ShimEnded:
					done++
					inFlight--
					r.m.Forget(e.Key)
				case nodemachine.ShimFailed:
					b.Fatal(e.Exit)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}
