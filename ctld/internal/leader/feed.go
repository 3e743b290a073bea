package leader

import (
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Feed keeps a planner in step with the job table, the nodes' sessions and the policy. Which jobs wait at which score is its
// owner's to say, since scores come from elsewhere. It is not safe for concurrent use.
type Feed struct {
	planner *sched.Planner
	// needs are shared by jobs of one specification.
	needs map[*fettlev1.JobSpec]*sched.Needs
	// connected is which nodes had a session.
	connected map[string]bool
	// windows are the scopes whose use of GPU-hours is bounded.
	windows []window
	cfg     FeedConfig
	// askedMS is when running jobs were last asked how long they have to go.
	askedMS int64
	scores  map[uint64]int64
	// ranks are the policy's scores of jobs that run.
	ranks    map[uint64]int64
	forecast forecast
}

// FeedConfig is what a feed knows beside the job table; all of it is optional.
type FeedConfig struct {
	Options sched.Options
	// Remaining says how many seconds a running job has to go, below 0 when it does not say.
	Remaining func(job uint64, attempt uint32) int64
	// BusyOutside are the cards of a node, by UUID, that something outside of jobs uses.
	BusyOutside func(node string) []string
}

type window struct {
	scope   sched.Scope
	row     state.Scope
	widthMS int64
}

// NewFeed makes a feed with an empty planner: call Reset first.
func NewFeed(cfg FeedConfig) *Feed {
	return &Feed{planner: sched.NewPlanner(cfg.Options), needs: map[*fettlev1.JobSpec]*sched.Needs{}, connected: map[string]bool{}, cfg: cfg, scores: map[uint64]int64{}, ranks: map[uint64]int64{}}
}

// Planner is what is fed.
func (f *Feed) Planner() *sched.Planner { return f.planner }

// Reset tells an empty planner everything but the waiting jobs.
func (f *Feed) Reset(snap *state.Snapshot, connected func(node string) bool, nowMS int64) {
	f.Policy(snap)
	for n := range snap.Nodes {
		f.node(n, connected)
	}
	for j := range snap.Active {
		f.Active(snap, j, nowMS)
	}
	f.askedMS = nowMS
}

// Policy takes over the cluster policy and the reservations.
func (f *Feed) Policy(snap *state.Snapshot) {
	f.planner.SetPolicy(sched.PolicyOf(snap))
	f.windows = f.windows[:0]
	add := func(kind sched.ScopeKind, row state.Scope) {
		if l := snap.LimitsOf(row); l.GetGpuHours() > 0 {
			f.windows = append(f.windows, window{sched.Scope{Kind: kind, Name: row.Name}, row, sched.LimitsOf(l).WindowMS})
		}
	}
	pol := snap.Policy()
	for _, p := range pol.GetPartitions() {
		add(sched.ScopePartition, state.Scope{Kind: state.ScopePartition, Name: p.GetName()})
	}
	for _, p := range pol.GetProjects() {
		add(sched.ScopeProject, state.Scope{Kind: state.ScopeProject, Name: p.GetName()})
	}
	// Limits of users may be those of everyone.
	for row := range snap.Uses {
		if row.Kind == state.ScopeUser {
			add(sched.ScopeUser, row)
		}
	}
}

// Nodes takes over nodes that changed, and those whose session came or went.
func (f *Feed) Nodes(snap *state.Snapshot, changed []string, connected func(node string) bool) {
	for _, name := range changed {
		if n := snap.Node(name); n != nil {
			f.node(n, connected)
		} else {
			delete(f.connected, name)
			f.planner.RemoveNode(name)
		}
	}
	for name, was := range f.connected {
		if connected(name) != was {
			f.node(snap.Node(name), connected)
		}
	}
}

func (f *Feed) node(n *state.Node, connected func(node string) bool) {
	if n == nil {
		return
	}
	up := connected == nil || connected(n.Name)
	f.connected[n.Name] = up
	var busy func(uuid string) bool
	if f.cfg.BusyOutside != nil {
		if cards := f.cfg.BusyOutside(n.Name); len(cards) > 0 {
			busy = func(uuid string) bool { return slices.Contains(cards, uuid) }
		}
	}
	f.planner.SetNode(sched.NodeOf(n, up, busy))
}

// Pending says that a job may start, at a score.
func (f *Feed) Pending(snap *state.Snapshot, j *state.Job, score int64) {
	f.scores[j.ID] = score
	delete(f.ranks, j.ID)
	f.planner.SetJob(sched.JobOf(snap, j, score, f.needsOf(j.Spec)))
}

// Hold takes a job that waits out of what may start.
func (f *Feed) Hold(id uint64) { f.planner.Remove(id) }

// Active says what a job holds.
func (f *Feed) Active(snap *state.Snapshot, j *state.Job, nowMS int64) {
	rank, ok := f.ranks[j.ID]
	if !ok {
		rank = f.lastScore(j) - hysteresis
	}
	left := int64(-1)
	if f.cfg.Remaining != nil {
		if s := f.cfg.Remaining(j.ID, j.Attempt); s >= 0 {
			left = s * 1000
		}
	}
	f.planner.SetRunning(sched.RunningOf(snap, j, rank, nowMS, left))
}

// Rank says what score the policy gives to a job that holds something: with it the job is compared with one that wants its GPUs.
func (f *Feed) Rank(snap *state.Snapshot, j *state.Job, score, nowMS int64) {
	f.ranks[j.ID] = score
	f.Active(snap, j, nowMS)
}

// lastScore is a running job's score from when it waited, or else its age: as good as any where nobody is preempted.
func (f *Feed) lastScore(j *state.Job) int64 {
	if score, ok := f.scores[j.ID]; ok {
		return score
	}
	if of, ok := f.scores[j.ArrayJobID]; ok && j.IsElement() {
		return of
	}
	return j.EligibleMS
}

// hysteresis is by how much a job that the policy has not ranked since it runs is ahead of its place in the queue, in
// milliseconds.
const hysteresis = 3_600_000

// Gone forgets a job that neither waits nor holds anything.
func (f *Feed) Gone(id uint64) {
	delete(f.scores, id)
	delete(f.ranks, id)
	f.planner.Remove(id)
}

// askEvery is how often running jobs are asked how long they have to go, in milliseconds.
const askEvery = 30_000

// Tick brings what changes with time alone up to date.
func (f *Feed) Tick(snap *state.Snapshot, nowMS int64) {
	for _, w := range f.windows {
		f.planner.SetUsage(w.scope, snap.SpendOf(w.row).Within(nowMS, w.widthMS))
	}
	if f.cfg.Remaining == nil || nowMS < f.askedMS+askEvery {
		return
	}
	f.askedMS = nowMS
	for j := range snap.Active {
		f.Active(snap, j, nowMS)
	}
}

// needsOf is what a specification asks of nodes.
func (f *Feed) needsOf(s *fettlev1.JobSpec) *sched.Needs {
	n, ok := f.needs[s]
	if !ok {
		if len(f.needs) > 2*f.planner.Jobs()+1024 {
			clear(f.needs)
		}
		n = sched.NeedsOf(s)
		f.needs[s] = n
	}
	return n
}

// Placements turns the starts of a plan into what the log takes.
func Placements(snap *state.Snapshot, plan *sched.Plan) []*raftlogv1.Placement {
	list := make([]*raftlogv1.Placement, 0, len(plan.Placements))
	for _, p := range plan.Placements {
		j := snap.Job(p.Job)
		if j == nil {
			continue
		}
		out := &raftlogv1.Placement{JobId: p.Job, Attempt: j.Attempt + 1, Nodes: sched.AskedFor(j.Spec, p.Allocs)}
		if p.Index >= 0 {
			index := uint32(p.Index)
			out.ArrayIndex, out.Attempt = &index, 1
		}
		list = append(list, out)
	}
	return list
}
