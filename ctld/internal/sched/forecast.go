package sched

import "container/heap"

// Start is when and where a waiting job probably starts.
type Start struct {
	// AtMS is the probable time, LowMS and HighMS how early and how late it could well be, in Unix milliseconds. HighMS is 0 when
	// that is beyond the horizon.
	AtMS, LowMS, HighMS int64
	// Nodes are where, in rank order.
	Nodes []string
}

// Bounds of a forecast.
const (
	// forecastStarts is how many starts are played out at most.
	forecastStarts = 20_000
	// unknownRunS is how long a job is taken to run of which nothing is known, in seconds.
	unknownRunS = 3600
	// What runs may take half of what is left by its prediction, or twice as long.
	scaleLow, scaleHigh = 500, 2000
)

// Forecast says when waiting jobs start, by playing the planner forward from nowMS: everything that runs ends when it is
// predicted to, what starts runs as long as it is estimated to, and nothing new is submitted. It goes on up to the horizon, in
// milliseconds from now; a job that would start later, or not at all, is not in the answer. An array is there with its first
// element. The bounds are those of runs that take half or twice as long as predicted, never beyond hard limits.
func (p *Planner) Forecast(nowMS, horizonMS int64) map[uint64]Start {
	out := p.play(nowMS, horizonMS, 1000)
	low, high := p.play(nowMS, horizonMS, scaleLow), p.play(nowMS, horizonMS, scaleHigh)
	for id, s := range out {
		s.LowMS, s.HighMS = s.AtMS, high[id].AtMS
		if l, ok := low[id]; ok {
			s.LowMS = min(s.LowMS, l.AtMS)
		}
		if s.HighMS != 0 {
			s.HighMS = max(s.HighMS, s.AtMS)
		}
		out[id] = s
	}
	return out
}

// played is what a forecast has changed, to be put back.
type played struct {
	p       *Planner
	jobs    map[uint64]Job
	running map[uint64]Running
	// made are the attempts that it made up.
	made []uint64
}

// remember notes a job as it was before the forecast.
func (u *played) job(j Job) {
	if _, ok := u.jobs[j.ID]; !ok {
		u.jobs[j.ID] = j
	}
}

// undo puts everything back.
func (u *played) undo() {
	for _, id := range u.made {
		u.p.Remove(id)
	}
	for _, j := range u.jobs {
		u.p.SetJob(j)
	}
	for _, r := range u.running {
		u.p.SetRunning(r)
	}
}

// ending is a heap of attempts by their end.
type ending []due

func (h ending) Len() int { return len(h) }
func (h ending) Less(i, j int) bool {
	return h[i].end < h[j].end || h[i].end == h[j].end && h[i].a.ID < h[j].a.ID
}
func (h ending) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *ending) Push(x any)   { *h = append(*h, x.(due)) }
func (h *ending) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	*h = (*h)[:last]
	return d
}

// play runs the planner forward, with runs that take so many thousandths of what is predicted.
func (p *Planner) play(nowMS, horizonMS int64, scale int64) map[uint64]Start {
	opt := p.opt
	defer func() { p.opt = opt }()
	p.opt.NoWaits, p.opt.MaxPlacements, p.opt.PreemptFor = true, -1, -1
	undo := played{p: p, jobs: map[uint64]Job{}, running: map[uint64]Running{}}
	defer undo.undo()

	out := map[uint64]Start{}
	s := p.begin(nowMS)
	ends := make(ending, 0, len(p.running))
	for _, a := range p.running {
		end := nowMS + (s.endOf(a)-nowMS)*scale/1000
		if a.LimitS > 0 {
			end = min(end, max(a.StartMS+a.LimitS*1000, nowMS))
		}
		ends = append(ends, due{a, end})
	}
	heap.Init(&ends)
	starts := 0
	for at := nowMS; at <= nowMS+horizonMS && starts < forecastStarts && len(p.jobs) > 0; {
		plan := p.Plan(at)
		for _, pl := range plan.Placements {
			e := p.jobs[pl.Job]
			if e == nil {
				continue
			}
			starts++
			if _, ok := out[pl.Job]; !ok {
				st := Start{AtMS: at}
				for _, a := range pl.Allocs {
					st.Nodes = append(st.Nodes, a.GetNode())
				}
				out[pl.Job] = st
			}
			undo.job(e.Job)
			a := p.begins(e.Job, pl, at, scale, &undo)
			heap.Push(&ends, due{a, a.endMS})
		}
		next, ok := int64(0), false
		if len(ends) > 0 {
			next, ok = ends[0].end, true
		}
		if plan.WakeMS > 0 && (!ok || plan.WakeMS < next) {
			next, ok = plan.WakeMS, true
		}
		if !ok {
			break
		}
		// The farther away, the less a moment matters: what ends within a hundredth of the time to there ends together.
		at = max(next, at)
		for near := at + (at-nowMS)/100; len(ends) > 0 && ends[0].end <= near; {
			a := heap.Pop(&ends).(due).a
			if a.ID&holderPlay != holderPlay {
				undo.running[a.ID] = a.Running
			}
			p.Remove(a.ID)
		}
	}
	return out
}

// begins carries out a start of a forecast.
func (p *Planner) begins(j Job, pl Placement, at, scale int64, undo *played) *attempt {
	run := j.EstimateS
	if run == 0 {
		run = j.LimitS
	}
	if run == 0 {
		run = unknownRunS
	}
	end := at + max(run*scale, 1000)
	if j.LimitS > 0 {
		end = min(end, at+j.LimitS*1000)
	}
	r := Running{
		ID: holderPlay | uint64(len(undo.made)), Allocs: pl.Allocs, User: j.User, Project: j.Project, Partition: j.Needs.Partition, Priority: j.Priority,
		Score: j.Score, Reservation: j.Reservation, StartMS: at, LimitS: j.LimitS, PredictedEndMS: end, ArrayID: j.ArrayID, Fixed: true,
	}
	p.Remove(j.ID)
	if pl.Index >= 0 {
		r.ArrayID = j.ID
		if rest := without(j.Array, uint32(pl.Index)); len(rest) > 0 {
			left := j
			left.Array, left.Claim = rest, nil
			p.SetJob(left)
		}
	}
	undo.made = append(undo.made, r.ID)
	p.SetRunning(r)
	return p.running[r.ID]
}

// without takes a number out of ranges that are ascending.
func without(ranges []Range, index uint32) []Range {
	out := make([]Range, 0, len(ranges)+1)
	for _, r := range ranges {
		step := max(r.Step, 1)
		if index < r.First || index > r.Last || (index-r.First)%step != 0 {
			out = append(out, r)
			continue
		}
		if index > r.First {
			out = append(out, Range{r.First, index - step, step})
		}
		if index+step <= r.Last {
			out = append(out, Range{index + step, r.Last, step})
		}
	}
	return out
}

// Position is how many waiting jobs are ahead of one: of all, of its partition, and of its project.
func (p *Planner) Position(id uint64) (all, partition, project int) {
	e := p.jobs[id]
	if e == nil {
		return 0, 0, 0
	}
	for _, o := range p.jobs {
		if before(o, e) {
			all++
			if o.Needs.Partition == e.Needs.Partition {
				partition++
			}
			if o.Project == e.Project {
				project++
			}
		}
	}
	return all, partition, project
}
