package sched

import (
	"slices"
	"strconv"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// meter counts what runs for the owner of a limit.
type meter struct {
	scope  Scope
	limits Limits
	// gpus and jobs that run, and the sum of GPUs times their start in milliseconds: with it the use up to any time is known.
	gpus, jobs int
	gpuStarts  int64
	// used is what has ended within the window, in GPU-milliseconds.
	used int64
	// What the plan numbered seen starts beside that.
	seen             uint64
	newGPUs, newJobs int
}

// account are the meters that a job of a partition, project and user counts on.
type account struct {
	partition, project, user string
	meters                   []*meter
}

// who names an account.
type who struct{ partition, project, user string }

func (p *Planner) account(w who) *account {
	if a, ok := p.accounts[w]; ok {
		return a
	}
	a := &account{partition: w.partition, project: w.project, user: w.user}
	a.meters = append(a.meters, p.meter(Scope{ScopePartition, w.partition}))
	// What runs for a project counts for all those above it. A chain that goes round is cut.
	for name := w.project; name != ""; name = p.projects[name].Parent {
		m := p.meter(Scope{ScopeProject, name})
		if slices.Contains(a.meters, m) {
			break
		}
		a.meters = append(a.meters, m)
	}
	a.meters = append(a.meters, p.meter(Scope{ScopeUser, w.user}))
	p.accounts[w] = a
	return a
}

func (p *Planner) meter(s Scope) *meter {
	if m, ok := p.meters[s]; ok {
		return m
	}
	m := &meter{scope: s, used: p.usage[s]}
	switch s.Kind {
	case ScopePartition:
		if part, ok := p.partitions[s.Name]; ok {
			m.limits = part.Limits
		}
	case ScopeProject:
		m.limits = p.projects[s.Name].Limits
	case ScopeUser:
		m.limits = p.userDefault
		if l, ok := p.users[s.Name]; ok {
			m.limits = l
		}
	}
	p.meters[s] = m
	return m
}

// count adds (sign 1) or takes back (-1) an attempt.
func (a *account) count(sign, gpus int, startMS int64) {
	for _, m := range a.meters {
		m.gpus += sign * gpus
		m.jobs += sign
		m.gpuStarts += int64(sign) * int64(gpus) * startMS
	}
}

// take counts what the plan numbered pass starts.
func (a *account) take(pass uint64, gpus int) {
	for _, m := range a.meters {
		m.fresh(pass)
		m.newGPUs += gpus
		m.newJobs++
	}
}

func (m *meter) fresh(pass uint64) {
	if m.seen != pass {
		m.seen, m.newGPUs, m.newJobs = pass, 0, 0
	}
}

// hit is a limit that a job would exceed.
type hit struct {
	meter *meter
	kind  hitKind
}

type hitKind uint8

const (
	hitJobs hitKind = iota + 1
	hitGPUs
	hitUse
)

// over returns the first limit that one more job with so many GPUs would exceed; its kind is 0 when there is none.
func (a *account) over(pass uint64, gpus int, nowMS int64) hit {
	for _, m := range a.meters {
		l := &m.limits
		if l.GPUs == 0 && l.Jobs == 0 && l.GPUMS == 0 {
			continue
		}
		m.fresh(pass)
		switch {
		case l.Jobs > 0 && m.jobs+m.newJobs >= l.Jobs:
			return hit{m, hitJobs}
		case l.GPUs > 0 && gpus > 0 && m.gpus+m.newGPUs+gpus > l.GPUs:
			return hit{m, hitGPUs}
		case l.GPUMS > 0 && gpus > 0 && m.spent(nowMS) >= l.GPUMS:
			return hit{m, hitUse}
		}
	}
	return hit{}
}

// spent is what has been used up to now, in GPU-milliseconds.
func (m *meter) spent(nowMS int64) int64 { return m.used + int64(m.gpus)*nowMS - m.gpuStarts }

// wait says what the limit keeps from starting.
func (h hit) wait(nowMS int64) Wait {
	m, text := h.meter, ""
	of := func(have, most int64) string {
		return strconv.FormatInt(have, 10) + " of at most " + strconv.FormatInt(most, 10)
	}
	switch h.kind {
	case hitJobs:
		text = of(int64(m.jobs+m.newJobs), int64(m.limits.Jobs)) + " jobs run"
	case hitGPUs:
		text = of(int64(m.gpus+m.newGPUs), int64(m.limits.GPUs)) + " GPUs are in use"
	case hitUse:
		text = of(m.spent(nowMS)/3_600_000, m.limits.GPUMS/3_600_000) + " GPU-hours are used up"
	}
	switch m.scope.Kind {
	case ScopePartition:
		return Wait{fettlev1.Reason_REASON_LIMIT_PARTITION, "partition " + m.scope.Name + ": " + text}
	case ScopeProject:
		return Wait{fettlev1.Reason_REASON_LIMIT_PROJECT, "project " + m.scope.Name + ": " + text}
	}
	return Wait{fettlev1.Reason_REASON_LIMIT_USER, "user " + m.scope.Name + ": " + text}
}
