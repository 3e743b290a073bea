package replay

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/policy"
)

// Builtin is fettle's own policy in this process.
func Builtin(p policy.Params) func(context.Context) (Scorer, error) {
	return func(context.Context) (Scorer, error) { return &builtin{params: p}, nil }
}

type builtin struct {
	params policy.Params
	scores []int64
}

// Score implements Scorer.
func (b *builtin) Score(_ context.Context, _ int64, changed *policy.Columns, _ []uint64) ([]uint64, []int64, error) {
	b.scores = b.params.ScoreColumns(b.scores[:0], changed)
	return changed.ID, b.scores, nil
}

// BoundS implements Scorer.
func (b *builtin) BoundS() int64 { return (b.params.BoundMS() + 999) / 1000 }

// Close implements Scorer.
func (b *builtin) Close() {}

// callTimeout is how long a plugin may take over one answer: a simulation waits rather than go on with another order.
const callTimeout = time.Minute

// Plugin is a policy that runs as a process of its own, with these settings. Every simulation starts one.
func Plugin(path string, settings map[string]string) func(context.Context) (Scorer, error) {
	return func(ctx context.Context) (Scorer, error) {
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp("", "fsim-")
		if err != nil {
			return nil, err
		}
		s, err := host.NewScheduling(ctx, host.SchedulingConfig{
			Plugin:  pluginConfig(path, dir, settings),
			Builtin: policy.Defaults(),
		})
		if err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
		p := &plugin{path: path, dir: dir, host: s}
		if err := s.Plugin().Ready(ctx); err != nil {
			p.Close()
			return nil, err
		}
		return p, nil
	}
}

type plugin struct {
	path, dir string
	host      *host.Scheduling
	begun     bool
	boundS    int64
}

// Score implements Scorer. When the plugin does not decide that is an error: the figures would be another policy's.
func (p *plugin) Score(ctx context.Context, nowMS int64, changed *policy.Columns, removed []uint64) ([]uint64, []int64, error) {
	d := host.Delta{Full: !p.begun, NowMS: nowMS, Changed: *changed}
	if p.begun {
		d.Removed = removed
	}
	got, source, err := p.host.Score(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	if source.Builtin {
		return nil, nil, errSilent{p.path, source.Reason}
	}
	if !p.begun {
		p.begun = true
		// Not every policy has a bound, or says anything of its scores.
		if why, _, err := p.host.Explain(ctx, nowMS, &policy.Columns{}); err == nil {
			p.boundS = (why.BoundMS + 999) / 1000
		}
	}
	return got.ID, got.Score, nil
}

// BoundS implements Scorer.
func (p *plugin) BoundS() int64 { return p.boundS }

// Close implements Scorer.
func (p *plugin) Close() {
	p.host.Close()
	os.RemoveAll(p.dir)
}
