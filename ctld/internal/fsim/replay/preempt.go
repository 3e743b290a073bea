package replay

import (
	"container/heap"
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/plugins/host"
)

// Preemption stops running jobs for blocked ones, by the planner's rules. Every job asks for it; a share of them may be stopped.
type Preemption struct {
	// Share of the jobs that may be stopped, from 0 to 1. Which ones depends on their rows alone.
	Share float64
	// RestartS is what coming back costs, in seconds.
	RestartS int64
	// CheckpointS is how often jobs save what they did, in seconds; 0: whenever they are asked to, so that nothing is lost.
	CheckpointS int64
	// MinRunS protects the first seconds of every run. Budget is how often one job may be stopped; 0: as often as it comes.
	MinRunS int64
	Budget  uint32
	// PriorityGap is by how many steps a job has to be more urgent than those that are stopped for it; 0: the queue's order
	// alone decides.
	PriorityGap uint32
	// MaxLoss is the share of its run that a job may lose with a stop.
	MaxLoss float64
	// Plugin picks the victims; empty: the built-in policy does.
	Plugin string
}

// preemptEveryS is how often victims are looked for at most.
const preemptEveryS = 60

// stops reports whether the job of a row may be stopped.
func (p *Preemption) stops(row int) bool { return p != nil && (spread(row+1<<32)+1)/2 < p.Share }

// rules tells the planner.
func (p *Preemption) rules(o *sched.Options, part *sched.Partition) {
	o.MaxLoss = max(1, int(p.MaxLoss*1000+0.5))
	part.Preempt, part.MinRunMS, part.Budget, part.PriorityGap = sched.PreemptCheckpoint, p.MinRunS*1000, p.Budget, p.PriorityGap
	part.AllowNoPreemptible = true
	if p.Budget == 0 {
		part.Budget = math.MaxUint32
	}
}

// savedS is how much of its present run a job has saved.
func (p *Preemption) savedS(ranS int64) int64 {
	if p.CheckpointS == 0 {
		return ranS
	}
	return ranS - ranS%p.CheckpointS
}

// describe says what stopping a job would cost.
func (p *Preemption) describe(r *sched.Running, j *job, nowS int64) {
	r.RestartS, r.OnSignal = p.RestartS, p.CheckpointS == 0
	r.CheckpointMS = ms(j.startS + p.savedS(j.ranS(nowS)))
}

// preemptor picks victims.
type preemptor struct {
	policy *host.Preemption
	dir    string
	// next is when it may do so again.
	next int64
}

func newPreemptor(ctx context.Context, p *Preemption) (*preemptor, error) {
	out := &preemptor{}
	cfg := host.PreemptionConfig{}
	if p.Plugin != "" {
		path, err := filepath.Abs(p.Plugin)
		if err != nil {
			return nil, err
		}
		if out.dir, err = os.MkdirTemp("", "fsim-"); err != nil {
			return nil, err
		}
		cfg.Plugin = pluginConfig(path, out.dir, nil)
	}
	var err error
	if out.policy, err = host.NewPreemption(ctx, cfg); err != nil {
		os.RemoveAll(out.dir)
		return nil, err
	}
	if plugin := out.policy.Plugin(); plugin != nil {
		if err := plugin.Ready(ctx); err != nil {
			out.close()
			return nil, err
		}
	}
	return out, nil
}

func (p *preemptor) close() {
	p.policy.Close()
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

// pluginConfig is how a simulation runs a plugin: it waits rather than go on with another policy.
func pluginConfig(path, dir string, settings map[string]string) host.Config {
	return host.Config{
		Path: path, SocketDir: filepath.Join(dir, "s"), Settings: settings, CallTimeout: callTimeout,
		// What fails once would fail again: there is no other policy to go on with.
		Restart: host.RestartLimits{Count: 1, MinBackoff: time.Millisecond}, Logger: slog.New(slog.DiscardHandler),
	}
}

// rekey has the running jobs that may be stopped scored anew when victims may be looked for: what is left of them has changed.
func (e *engine) rekey(ctx context.Context) error {
	if e.preempt == nil || e.now < e.preempt.next || len(e.waiting) == 0 {
		return nil
	}
	for _, j := range e.ends {
		if j.soft {
			e.touch(j)
		}
	}
	return e.score(ctx)
}

// victims asks the preemption policy, when the plan has a question for it and it is time.
func (e *engine) victims(ctx context.Context, plan *sched.Plan) ([]sched.Preemption, error) {
	if plan.Ask == nil {
		return nil, nil
	}
	e.preempt.next = e.now + preemptEveryS
	answer, source, err := e.preempt.policy.Select(ctx, plan.Ask)
	if err != nil {
		return nil, err
	}
	if source.Builtin && e.cfg.Preemption.Plugin != "" {
		return nil, errSilent{e.cfg.Preemption.Plugin, source.Reason}
	}
	return e.planner.Preempt(plan, answer)
}

// errSilent is a plugin that does not decide.
type errSilent struct{ path, why string }

// Error implements error.
func (e errSilent) Error() string { return "plugin " + e.path + " does not answer: " + e.why }

// makeRoom stops the victims and gives what they had to those whom they were stopped for.
func (e *engine) makeRoom(moves []sched.Preemption) {
	for i := range moves {
		m := &moves[i]
		for _, v := range m.Victims {
			e.stop(&e.jobs[v.Job-1])
		}
		if j := e.waiting[m.Job]; j != nil {
			j.claim = m.Allocs
			e.planner.SetJob(e.plannerJob(j))
		}
	}
}

// stop ends a run before its time. What was not saved is to be done again, and coming back has its price.
func (e *engine) stop(j *job) {
	p := e.cfg.Preemption
	ran := j.ranS(e.now)
	saved := max(0, p.savedS(ran)-j.owedS)
	heap.Remove(&e.ends, j.heapAt)
	e.vacate(j)
	j.doneS += saved
	j.owedS = p.RestartS
	j.preempted++
	o := &e.outcomes[j.at]
	o.Preempted++
	o.LostGPUS += int64(j.GPUs) * (ran - saved)
	// The planner has it running until it waits again.
	e.planner.Remove(id(j.at))
	e.enqueue(j)
}
