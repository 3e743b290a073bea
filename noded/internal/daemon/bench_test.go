package daemon

import (
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// BenchmarkNoOpJobs is a node's whole part in jobs that do nothing: order, journal, shim, reports, acknowledgement.
func BenchmarkNoOpJobs(b *testing.B) {
	const slots = 64
	n := newNode(b, `log_level = "info"`)
	n.leader.hello()
	next, done, inFlight := uint64(0), 0, 0
	b.ResetTimer()
	for done < b.N {
		for inFlight < slots && int(next) < b.N {
			next++
			p := n.job(next, "exit 0")
			p.FenceByLease = true
			p.Spec.StdoutPath = "/dev/null"
			n.leader.prepare(p)
			inFlight++
		}
		if r := <-n.leader.reports; r.GetKind() == fettlev1.ReportKind_REPORT_KIND_ENDED {
			done++
			inFlight--
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}
