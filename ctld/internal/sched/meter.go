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
	// total is what runs, fresh what the plan numbered seen starts beside that.
	total, fresh load
	seen         uint64
	// used is what has ended within the window, in GPU-milliseconds.
	used int64
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
	// What runs for a project counts for all those above it.
	for _, name := range p.chain(w.project) {
		a.meters = append(a.meters, p.meter(Scope{ScopeProject, name}))
	}
	a.meters = append(a.meters, p.meter(Scope{ScopeUser, w.user}))
	p.accounts[w] = a
	return a
}

// chain is a project and those above it, nearest first. One that goes round is cut.
func (p *Planner) chain(project string) []string {
	var chain []string
	for name := project; name != "" && !slices.Contains(chain, name); name = p.projects[name].Parent {
		chain = append(chain, name)
	}
	return chain
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

// load is what attempts hold and may still use.
type load struct {
	// milli is in thousandths of GPUs, committed in GPU-milliseconds of the window.
	milli, committed int64
	jobs             int
}

// commit is the most GPU-milliseconds of a window that something with so many thousandths of GPUs uses.
func (l *Limits) commit(milli, limitS int64) int64 {
	ms := l.WindowMS
	if limitS > 0 {
		ms = min(ms, limitS*1000)
	}
	return milli * ms / 1000
}

// count adds (sign 1) or takes back (-1) an attempt.
func (a *account) count(sign int64, milli, limitS int64) {
	for _, m := range a.meters {
		m.total.milli += sign * milli
		m.total.jobs += int(sign)
		m.total.committed += sign * m.limits.commit(milli, limitS)
	}
}

// take counts what the plan numbered pass starts.
func (a *account) take(pass uint64, milli, limitS int64) {
	for _, m := range a.meters {
		m.begin(pass)
		m.fresh.milli += milli
		m.fresh.jobs++
		m.fresh.committed += m.limits.commit(milli, limitS)
	}
}

func (m *meter) begin(pass uint64) {
	if m.seen != pass {
		m.seen, m.fresh = pass, load{}
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
	hitJobGPUs
	hitJobNodes
)

// ask is what one more start would take.
type ask struct {
	milli, limitS int64
	gpus, nodes   int
}

// over returns the first limit that a start would exceed; its kind is 0 when there is none.
func (a *account) over(pass uint64, w ask) hit {
	for _, m := range a.meters {
		l := &m.limits
		if l.none() {
			continue
		}
		m.begin(pass)
		switch {
		case l.Jobs > 0 && m.total.jobs+m.fresh.jobs >= l.Jobs:
			return hit{m, hitJobs}
		case l.GPUs > 0 && w.milli > 0 && m.total.milli+m.fresh.milli+w.milli > int64(l.GPUs)*1000:
			return hit{m, hitGPUs}
		case l.GPUMS > 0 && w.milli > 0 && m.spent()+l.commit(w.milli, w.limitS) > l.GPUMS:
			return hit{m, hitUse}
		case l.GPUsPerJob > 0 && w.gpus > l.GPUsPerJob:
			return hit{m, hitJobGPUs}
		case l.NodesPerJob > 0 && w.nodes > l.NodesPerJob:
			return hit{m, hitJobNodes}
		}
	}
	return hit{}
}

// spent is what is used up in the window, or may be by what runs, in GPU-milliseconds.
func (m *meter) spent() int64 { return m.used + m.total.committed + m.fresh.committed }

// wait says what the limit keeps from starting.
func (h hit) wait() Wait {
	m, l, text := h.meter, &h.meter.limits, ""
	of := func(have, most int64) string {
		return strconv.FormatInt(have, 10) + " of at most " + strconv.FormatInt(most, 10)
	}
	switch h.kind {
	case hitJobs:
		text = of(int64(m.total.jobs+m.fresh.jobs), int64(l.Jobs)) + " jobs run"
	case hitGPUs:
		text = of((m.total.milli+m.fresh.milli+999)/1000, int64(l.GPUs)) + " GPUs are in use"
	case hitUse:
		text = of(m.spent()/3_600_000, l.GPUMS/3_600_000) + " GPU-hours are used up or held by what runs"
	case hitJobGPUs:
		text = "at most " + strconv.Itoa(l.GPUsPerJob) + " GPUs for each job"
	case hitJobNodes:
		text = "at most " + strconv.Itoa(l.NodesPerJob) + " nodes for each job"
	}
	switch m.scope.Kind {
	case ScopePartition:
		return Wait{fettlev1.Reason_REASON_LIMIT_PARTITION, "partition " + m.scope.Name + ": " + text}
	case ScopeProject:
		return Wait{fettlev1.Reason_REASON_LIMIT_PROJECT, "project " + m.scope.Name + ": " + text}
	}
	return Wait{fettlev1.Reason_REASON_LIMIT_USER, "user " + m.scope.Name + ": " + text}
}
