package host

import (
	"testing"

	"github.com/fettle-hpc/fettle/plugins/policy"
)

func benchmarkScheduling(b *testing.B) *cycle {
	b.Helper()
	cfg := SchedulingConfig{Builtin: policy.Defaults(), Plugin: quickSched(b, binaries.multifactor)}
	cfg.Plugin.CallTimeout = patience
	c := newCycle(b, cfg)
	ready(b, c.s.Plugin())
	for id := range uint64(100_000) {
		c.put(job(id + 1))
	}
	return c
}

// BenchmarkScoreFull100k is the first cycle of a new leader.
func BenchmarkScoreFull100k(b *testing.B) {
	c := benchmarkScheduling(b)
	for b.Loop() {
		if _, source, err := c.s.Score(b.Context(), c.delta); err != nil || source.Builtin {
			b.Fatal(source, err)
		}
	}
}

// BenchmarkScoreDelta100 is a usual cycle: 100 of 100,000 jobs changed.
func BenchmarkScoreDelta100(b *testing.B) {
	c := benchmarkScheduling(b)
	if _, _, err := c.s.Score(b.Context(), c.delta); err != nil {
		b.Fatal(err)
	}
	var d Delta
	for id := range uint64(100) {
		d.Changed.Append(job(id + 1))
	}
	for b.Loop() {
		if _, source, err := c.s.Score(b.Context(), d); err != nil || source.Builtin {
			b.Fatal(source, err)
		}
	}
}

// BenchmarkStart is from fork to configured.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		p, err := Start(b.Context(), quickSched(b, binaries.multifactor))
		if err != nil {
			b.Fatal(err)
		}
		ready(b, p)
		p.Close()
	}
}

// BenchmarkFallback100k is what a cycle costs when the plugin fails.
func BenchmarkFallback100k(b *testing.B) {
	c := newCycle(b, SchedulingConfig{Builtin: policy.Defaults()})
	for id := range uint64(100_000) {
		c.put(job(id + 1))
	}
	for b.Loop() {
		if _, _, err := c.s.Score(b.Context(), c.delta); err != nil {
			b.Fatal(err)
		}
	}
}
