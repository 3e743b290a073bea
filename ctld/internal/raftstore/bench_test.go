package raftstore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// counter is a state machine that costs nothing.
type counter struct {
	notes
	n int
}

func (c *counter) Apply(*raft.Log) any { c.n++; return c.n }

func (c *counter) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i := range logs {
		c.n++
		out[i] = c.n
	}
	return out
}

// BenchmarkApply measures durable entries a second: three members in this process
// on one disk, every write synced, 300-byte entries.
func BenchmarkApply(b *testing.B) {
	for _, callers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			lead := benchCluster(b)
			data := make([]byte, 300)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			start := time.Now()
			for range callers {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if _, _, err := lead.Apply(b.Context(), data); err != nil {
							b.Errorf("apply: %v", err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "applies/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkWaitLinearizable measures linearizable reads a second, 64 at a time.
func BenchmarkWaitLinearizable(b *testing.B) {
	lead := benchCluster(b)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	start := time.Now()
	for range 64 {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, err := lead.WaitLinearizable(b.Context()); err != nil {
					b.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "reads/s")
}

func benchCluster(b *testing.B) *node {
	c := newCluster(b)
	c.timing = 1
	quiet := func(cfg *Config) {
		cfg.FSM = &counter{}
		cfg.SnapshotThreshold, cfg.TrailingLogs = DefaultSnapshotThreshold, DefaultTrailingLogs
	}
	c.mustOpen("c1", bootstrap, quiet)
	c.mustOpen("c2", join("c1"), quiet)
	c.mustOpen("c3", join("c1"), quiet)
	return c.leader()
}
