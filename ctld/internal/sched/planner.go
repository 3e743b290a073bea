package sched

import (
	"cmp"
	"math"
	"slices"

	"github.com/google/btree"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Planner knows the nodes, what runs on them, what waits and the policy, follows changes of these one by one, and plans.
//
// It is pure: it has no clock, and what it answers depends on what it holds and the time given alone, never on the order in
// which that came or on plans made before. It is not safe for concurrent use.
//
// Time must not go back from one call to the next.
type Planner struct {
	opt     Options
	cluster *place.Cluster

	jobs    map[uint64]*entry
	running map[uint64]*attempt
	// ends are the attempts of which an end is told, soonest first; open those of which none is, youngest first.
	ends, open *btree.BTreeG[*attempt]
	// ending are those that are being ended.
	ending map[uint64]*attempt
	// siblings is how many elements of an array run.
	siblings map[uint64]int

	shapes     map[string]*shape
	byNeeds    map[wanted]*shape
	lanes      map[string]*lane
	classes    map[string]*class
	idleShapes int
	// unfit are jobs that no nodes could hold as they are known; they are in no lane.
	unfit *btree.BTreeG[*entry]
	// preemptors are the waiting jobs that ask for others to be preempted.
	preemptors *btree.BTreeG[*entry]
	// revision changes with what the planner knows of nodes beside the cluster, checked is the facts that shapes were checked for.
	revision, checked    uint64
	partSets, methodSets nodeSets
	methods              map[string][]string
	sizes                sizes

	partitions   map[string]*Partition
	projects     map[string]Project
	users        map[string]Limits
	userDefault  Limits
	reservations []Reservation
	usage        map[Scope]int64
	accounts     map[who]*account
	meters       map[Scope]*meter

	// pass numbers the plans; settled asks for the reservations of all heads, whether or not anything else could start.
	pass    uint64
	settled bool
	// silent leaves out who could be preempted.
	silent bool
}

// entry is a waiting job in the planner.
type entry struct {
	Job
	shape   *shape
	account *account
	// least is the fewest that it takes, left how many may start: 1, or the unstarted elements of an array.
	least ask
	left  int
	unfit bool
	// began is the number of the newest plan that starts it.
	began uint64
}

// attempt is a running job in the planner.
type attempt struct {
	Running
	account *account
	milli   int64
	// endMS is when it ends by its limit or prediction; math.MaxInt64 when neither says.
	endMS int64
}

// Holders in the cluster beside jobs, which hold by their number.
const (
	holderClaim   = uint64(1) << 60 // | job
	holderReserve = uint64(2) << 60 // | number within the plan
	holderStart   = uint64(3) << 60 // | number within the plan
	holderWindow  = uint64(4) << 60 // | number of the reservation
	holderPlay    = uint64(5) << 60 // | number within a forecast
)

// NewPlanner makes a planner that knows nothing.
func NewPlanner(opt Options) *Planner {
	p := &Planner{
		opt: opt, cluster: place.New(), methods: map[string][]string{},
		jobs: map[uint64]*entry{}, running: map[uint64]*attempt{}, ending: map[uint64]*attempt{}, siblings: map[uint64]int{},
		ends: btree.NewG(32, func(a, b *attempt) bool { return cmp.Or(cmp.Compare(a.endMS, b.endMS), cmp.Compare(a.ID, b.ID)) < 0 }),
		open: btree.NewG(32, func(a, b *attempt) bool {
			return cmp.Or(cmp.Compare(b.StartMS, a.StartMS), cmp.Compare(a.ID, b.ID)) < 0
		}),
		shapes: map[string]*shape{}, byNeeds: map[wanted]*shape{}, lanes: map[string]*lane{}, classes: map[string]*class{}, unfit: newTree(), preemptors: newTree(),
		usage: map[Scope]int64{},
	}
	p.sizes.version = ^uint64(0)
	p.SetPolicy(Policy{})
	return p
}

// Cluster is what the planner places on, to look at: its nodes and what is held. Nobody else changes it, but for SetDemand and,
// before anything is held, HeadroomMiB.
func (p *Planner) Cluster() *place.Cluster { return p.cluster }

// AskForVictims says whether plans from here on list who could be preempted (Plan.Ask), which is most of their work where many
// jobs may preempt. They do until told otherwise.
func (p *Planner) AskForVictims(on bool) { p.silent = !on }

// Jobs is how many jobs wait.
func (p *Planner) Jobs() int { return len(p.jobs) }

// Running is how many attempts hold something.
func (p *Planner) Running() int { return len(p.running) }

// Job returns a waiting job.
func (p *Planner) Job(id uint64) (Job, bool) {
	if e := p.jobs[id]; e != nil {
		return e.Job, true
	}
	return Job{}, false
}

// SetNode adds a node or changes what is known of it.
func (p *Planner) SetNode(n Node) {
	if old, ok := p.methods[n.Name]; !ok || !slices.Equal(old, n.Methods) {
		p.methods[n.Name] = n.Methods
		p.revision++
	}
	p.cluster.SetNode(n.Node)
}

// RemoveNode forgets a node; an unknown one is ignored. What runs on it still runs.
func (p *Planner) RemoveNode(name string) {
	delete(p.methods, name)
	p.cluster.RemoveNode(name)
}

// SetPolicy replaces the policy. Jobs of unknown partitions do not start. It looks at every job.
func (p *Planner) SetPolicy(pol Policy) {
	p.revision++
	p.partitions = make(map[string]*Partition, len(pol.Partitions))
	for i := range pol.Partitions {
		p.partitions[pol.Partitions[i].Name] = &pol.Partitions[i]
	}
	p.projects = make(map[string]Project, len(pol.Projects))
	for _, pr := range pol.Projects {
		p.projects[pr.Name] = pr
	}
	p.users, p.userDefault = pol.Users, pol.UserDefault
	p.reservations = slices.SortedFunc(slices.Values(pol.Reservations), func(a, b Reservation) int {
		return cmp.Or(cmp.Compare(a.StartMS, b.StartMS), cmp.Compare(a.Name, b.Name))
	})
	p.accounts, p.meters = map[who]*account{}, map[Scope]*meter{}
	for _, e := range p.jobs {
		e.account = p.account(who{e.Needs.Partition, e.Project, e.User})
	}
	for _, a := range p.running {
		a.account = p.account(who{a.Partition, a.Project, a.User})
		a.account.count(1, a.milli, a.LimitS)
	}
}

// SetUsage says how many GPU-milliseconds of the window of a limit the owner has used up by what has ended.
func (p *Planner) SetUsage(s Scope, gpuMS int64) {
	if gpuMS == 0 {
		delete(p.usage, s)
	} else {
		p.usage[s] = gpuMS
	}
	if m, ok := p.meters[s]; ok {
		m.used = gpuMS
	}
}

// SetJob adds a waiting job or changes it. A job that ran waits again.
func (p *Planner) SetJob(j Job) {
	if e := p.jobs[j.ID]; e != nil {
		p.removeJob(e)
	}
	if a := p.running[j.ID]; a != nil {
		p.removeRunning(a)
	}
	s := p.intern(j.Needs, j.Reservation)
	if s.refs++; s.refs == 1 && p.idleShapes > 0 {
		p.idleShapes--
	}
	e := &entry{Job: j, shape: s, account: p.account(who{j.Needs.Partition, j.Project, j.User}), least: leastOf(&j), left: 1}
	if len(j.Array) > 0 {
		e.left = 0
		for _, r := range j.Array {
			e.left += r.Len()
		}
	}
	p.jobs[j.ID] = e
	if len(j.Claim) > 0 {
		p.cluster.Hold(holderClaim|j.ID, j.Claim)
	}
	if s.version == ^uint64(0) {
		p.check(s)
	}
	p.file(e)
}

// SetScore moves a waiting job in the queue; an unknown one is ignored.
func (p *Planner) SetScore(id uint64, score int64) {
	if e := p.jobs[id]; e != nil && e.Score != score {
		p.unfile(e)
		e.Score = score
		p.file(e)
	}
}

// file puts an entry into its queue.
func (p *Planner) file(e *entry) {
	if e.Preempt {
		p.preemptors.ReplaceOrInsert(e)
	}
	if e.unfit = e.shape.unfit != nil; e.unfit {
		p.unfit.ReplaceOrInsert(e)
	} else {
		e.shape.lane.tree.ReplaceOrInsert(e)
	}
}

func (p *Planner) unfile(e *entry) {
	if e.Preempt {
		p.preemptors.Delete(e)
	}
	if e.unfit {
		p.unfit.Delete(e)
	} else {
		e.shape.lane.tree.Delete(e)
	}
}

func (p *Planner) removeJob(e *entry) {
	p.unfile(e)
	delete(p.jobs, e.ID)
	if len(e.Claim) > 0 {
		p.cluster.Release(holderClaim | e.ID)
	}
	p.release(e.shape)
}

// SetRunning adds an attempt or changes it. A job that waited does no longer.
func (p *Planner) SetRunning(r Running) {
	if e := p.jobs[r.ID]; e != nil {
		p.removeJob(e)
	}
	endMS := int64(math.MaxInt64)
	if r.LimitS > 0 {
		endMS = r.StartMS + r.LimitS*1000
	}
	if r.PredictedEndMS > 0 {
		endMS = min(endMS, r.PredictedEndMS)
	}
	old := p.running[r.ID]
	if old != nil && old.endMS == endMS && sameStanding(&old.Running, &r) {
		old.Running = r
		return
	}
	if old != nil {
		p.discount(old)
	}
	a := &attempt{Running: r, account: p.account(who{r.Partition, r.Project, r.User}), milli: p.milli(r.Allocs), endMS: endMS}
	p.running[r.ID] = a
	p.order(a).ReplaceOrInsert(a)
	if a.Ending {
		p.ending[a.ID] = a
	}
	a.account.count(1, a.milli, a.LimitS)
	if r.ArrayID != 0 {
		p.siblings[r.ArrayID]++
	}
	if old == nil || !sameAllocs(old.Allocs, r.Allocs) {
		p.cluster.Hold(r.ID, r.Allocs)
	}
}

// sameStanding reports whether nothing differs that attempts are counted or ordered by.
func sameStanding(a, b *Running) bool {
	return a.StartMS == b.StartMS && a.LimitS == b.LimitS && a.Ending == b.Ending && a.ArrayID == b.ArrayID &&
		a.User == b.User && a.Project == b.Project && a.Partition == b.Partition && sameAllocs(a.Allocs, b.Allocs)
}

func (p *Planner) order(a *attempt) *btree.BTreeG[*attempt] {
	if a.endMS == math.MaxInt64 {
		return p.open
	}
	return p.ends
}

// discount takes an attempt out of everything but the cluster.
func (p *Planner) discount(a *attempt) {
	p.order(a).Delete(a)
	delete(p.ending, a.ID)
	a.account.count(-1, a.milli, a.LimitS)
	if a.ArrayID != 0 {
		if p.siblings[a.ArrayID]--; p.siblings[a.ArrayID] == 0 {
			delete(p.siblings, a.ArrayID)
		}
	}
}

func (p *Planner) removeRunning(a *attempt) {
	p.discount(a)
	delete(p.running, a.ID)
	p.cluster.Release(a.ID)
}

// Remove forgets a job, whether it waits or runs; an unknown one is ignored.
func (p *Planner) Remove(id uint64) {
	if e := p.jobs[id]; e != nil {
		p.removeJob(e)
	}
	if a := p.running[id]; a != nil {
		p.removeRunning(a)
	}
}

// sameAllocs reports whether two allocations hold the same.
func sameAllocs(a, b []*fettlev1.NodeAllocation) bool {
	return slices.EqualFunc(a, b, func(x, y *fettlev1.NodeAllocation) bool {
		return x == y || x.GetNode() == y.GetNode() && x.GetCpus() == y.GetCpus() && x.GetMemMib() == y.GetMemMib() && x.GetVramMib() == y.GetVramMib() &&
			slices.Equal(x.GetGpuUuids(), y.GetGpuUuids())
	})
}

// leastOf is the least that a job takes of limits.
func leastOf(j *Job) ask {
	r := &j.Needs.Request
	n := r.GPUs
	for _, c := range r.Alternatives {
		n = min(n, c.Count)
	}
	a := ask{gpus: n, nodes: span(r), limitS: j.LimitS}
	if !r.Total {
		a.gpus *= a.nodes
	}
	if a.milli = int64(a.gpus) * 1000; r.VRAMMiB > 0 {
		// How much of a card that is depends on the card.
		a.milli = int64(a.gpus)
	}
	return a
}

// milli is what allocations count in limits, in thousandths of GPUs: shares of a card as their part of its memory, rounded up.
func (p *Planner) milli(allocs []*fettlev1.NodeAllocation) int64 {
	n := int64(0)
	for _, a := range allocs {
		switch {
		case a.GetGpuMilli() > 0:
			n += int64(a.GetGpuMilli())
		case a.GetVramMib() > 0:
			for _, u := range a.GetGpuUuids() {
				part := int64(1000)
				if mem := p.memoryOf(a.GetNode(), u); mem > 0 {
					part = max(1, min((a.GetVramMib()*1000+mem-1)/mem, 1000))
				}
				n += part
			}
		default:
			n += int64(len(a.GetGpuUuids())) * 1000
		}
	}
	return n
}

// memoryOf is a card's memory in MiB; 0 when it is not known.
func (p *Planner) memoryOf(node, uuid string) int64 {
	if i, ok := p.cluster.Position(node); ok {
		for _, g := range p.cluster.Node(i).GPUs {
			if g.UUID == uuid {
				return g.MemMiB
			}
		}
	}
	return 0
}

// refresh checks all shapes again when facts have changed since.
func (p *Planner) refresh() {
	if p.checked == p.facts() {
		return
	}
	p.checked = p.facts()
	moved := false
	for _, s := range p.shapes {
		was := s.unfit != nil
		p.check(s)
		moved = moved || was != (s.unfit != nil)
	}
	if !moved {
		return
	}
	for _, e := range p.jobs {
		if e.unfit != (e.shape.unfit != nil) {
			p.unfile(e)
			p.file(e)
		}
	}
}
