package state

import (
	"cmp"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Short names for the kinds of scopes.
const (
	ScopePartition = fettlev1.ScopeKind_SCOPE_KIND_PARTITION
	ScopeProject   = fettlev1.ScopeKind_SCOPE_KIND_PROJECT
	ScopeUser      = fettlev1.ScopeKind_SCOPE_KIND_USER
)

// Scope is something that limits apply to: a partition, a project with all below it, or a user.
type Scope struct {
	Kind fettlev1.ScopeKind
	Name string
}

// CompareScopes orders scopes by kind, then by name.
func CompareScopes(a, b Scope) int {
	if c := cmp.Compare(a.Kind, b.Kind); c != 0 {
		return c
	}
	return cmp.Compare(a.Name, b.Name)
}

// Use is what the unfinished jobs of a scope are and hold. It follows from the rows and is neither hashed nor stored.
type Use struct {
	// GPUMilli is held, in thousandths of GPUs.
	GPUMilli int64
	// Running jobs hold resources; Queued ones are all that are not finished, each element of an array for itself.
	Running, Queued int64
	// CommittedMS is how many GPU-milliseconds what runs may use within the window of the scope's limit on GPU-hours; 0
	// where there is no such limit.
	CommittedMS int64
}

func (u Use) plus(o Use) Use {
	return Use{u.GPUMilli + o.GPUMilli, u.Running + o.Running, u.Queued + o.Queued, u.CommittedMS + o.CommittedMS}
}

func (u Use) minus(o Use) Use {
	return Use{u.GPUMilli - o.GPUMilli, u.Running - o.Running, u.Queued - o.Queued, u.CommittedMS - o.CommittedMS}
}

// Bound is a scope of a job that has limits.
type Bound struct {
	Scope  Scope
	Limits *fettlev1.Limits
}

// Account is the project that the job counts for.
func (j *Job) Account() string {
	if j.Project != "" {
		return j.Project
	}
	return j.Spec.GetProject()
}

// GPUMilli is what an allocation counts in limits and usage, in thousandths of a GPU.
func GPUMilli(a *fettlev1.NodeAllocation) int64 {
	if m := a.GetGpuMilli(); m > 0 {
		return int64(m)
	}
	return int64(len(a.GetGpuUuids())) * 1000
}

// AllocationMilli is what an allocation would count on this node in thousandths of a GPU, the log's rule for GpuMilli: whole
// GPUs 1000 each, shares their part of the GPU's memory, rounded up.
func (n *Node) AllocationMilli(a *fettlev1.NodeAllocation) int64 {
	if a.GetVramMib() <= 0 {
		return int64(len(a.GetGpuUuids())) * 1000
	}
	total := int64(0)
	for _, u := range a.GetGpuUuids() {
		part := int64(1000)
		if mem := n.GPU(u).GetMemoryMib(); mem > 0 {
			part = min((a.GetVramMib()*1000+mem-1)/mem, 1000)
		}
		total += max(part, 1)
	}
	return total
}

// Load is what one job counts in each of its scopes.
type Load struct {
	// GPUMilli and Running are those of parts that have not ended.
	GPUMilli, Running, Queued int64
	// LimitMS is its time limit in milliseconds; 0: none.
	LimitMS int64
}

// LoadOf is what a row counts; zero for nil and for finished jobs.
func LoadOf(j *Job) Load {
	if j == nil || j.Finished() {
		return Load{}
	}
	l := Load{Queued: j.elements()}
	if !j.Active() {
		return l
	}
	l.Running, l.LimitMS = 1, j.Spec.GetTimeLimitS()*1000
	for _, p := range j.Current().GetNodes() {
		if p.GetExit() == nil {
			l.GPUMilli += GPUMilli(p)
		}
	}
	return l
}

// use is what a load counts in a scope whose limit on GPU-hours has this window (0: it has none).
func (l Load) use(windowMS int64) Use {
	u := Use{GPUMilli: l.GPUMilli, Running: l.Running, Queued: l.Queued}
	if windowMS > 0 {
		u.CommittedMS = Commitment(l.GPUMilli, l.LimitMS, windowMS)
	}
	return u
}

// Commitment is the most GPU-milliseconds that something which holds gpuMilli can use within a window.
func Commitment(gpuMilli, limitMS, windowMS int64) int64 {
	if limitMS <= 0 {
		limitMS = windowMS
	}
	return gpuMilli * min(limitMS, windowMS) / 1000
}

// scopesOf appends the scopes that a job of this partition, project and user counts in.
func (c *policy) scopesOf(buf []Scope, partition, project, user string) []Scope {
	if partition != "" {
		buf = append(buf, Scope{ScopePartition, partition})
	}
	if p := c.projects[project]; p != nil {
		for _, name := range p.chain {
			buf = append(buf, Scope{ScopeProject, name})
		}
	} else if project != "" {
		buf = append(buf, Scope{ScopeProject, project})
	}
	if user != "" {
		buf = append(buf, Scope{ScopeUser, user})
	}
	return buf
}

// limitsOf returns the limits of a scope, nil when it has none.
func (c *policy) limitsOf(s Scope) *fettlev1.Limits {
	switch s.Kind {
	case ScopePartition:
		if p := c.partitions[s.Name]; p != nil {
			return p.GetLimits()
		}
	case ScopeProject:
		if p := c.projects[s.Name]; p != nil {
			return p.GetLimits()
		}
	case ScopeUser:
		if l, ok := c.users[s.Name]; ok {
			return l
		}
		return c.everyone
	}
	return nil
}

// bounds returns the scopes with limits of a job, partition first, then the projects from its own upwards, then the user.
func (c *policy) bounds(partition, project, user string) []Bound {
	var buf [model.MaxProjectDepth + 3]Scope
	var out []Bound
	for _, s := range c.scopesOf(buf[:0], partition, project, user) {
		if l := c.limitsOf(s); l != nil {
			out = append(out, Bound{s, l})
		}
	}
	return out
}

// scopeUse is a row of what readers see of the counters.
type scopeUse struct {
	scope Scope
	use   Use
}

func lessUse(a, b *scopeUse) bool { return CompareScopes(a.scope, b.scope) < 0 }

// useTable counts by scope. The writer's map is shown to readers row by row as it changes.
type useTable struct {
	now   map[Scope]Use
	dirty map[Scope]bool
	shown tree[*scopeUse]
}

func newUseTable() useTable {
	return useTable{now: make(map[Scope]Use), dirty: make(map[Scope]bool), shown: newTree(lessUse)}
}

func (u *useTable) add(s Scope, d Use) {
	v := u.now[s].plus(d)
	if v == (Use{}) {
		delete(u.now, s)
	} else {
		u.now[s] = v
	}
	u.dirty[s] = true
}

// flush brings what readers will see up to date. The order does not matter to the tree.
func (u *useTable) flush() {
	for s := range u.dirty {
		if v, ok := u.now[s]; ok {
			u.shown.put(&scopeUse{s, v})
		} else {
			u.shown.del(&scopeUse{scope: s})
		}
	}
	clear(u.dirty)
}

// moveUse keeps the counters in step with a row that is put, replaced or removed.
func (t *tables) moveUse(old, j *Job) {
	was, is := LoadOf(old), LoadOf(j)
	if was == is && sameScopes(old, j) {
		return
	}
	if was != (Load{}) {
		t.count(old, was, false)
	}
	if is != (Load{}) {
		t.count(j, is, true)
	}
}

func sameScopes(a, b *Job) bool {
	return a != nil && b != nil && a.Spec.GetPartition() == b.Spec.GetPartition() && a.Account() == b.Account() && a.User == b.User
}

func (t *tables) count(j *Job, l Load, up bool) {
	var buf [model.MaxProjectDepth + 3]Scope
	c := t.meta.policy
	for _, s := range c.scopesOf(buf[:0], j.Spec.GetPartition(), j.Account(), j.User) {
		u := l.use(model.WindowMS(c.limitsOf(s)))
		if !up {
			u = Use{}.minus(u)
		}
		t.use.add(s, u)
	}
}

// recount begins the counters anew: projects may hang elsewhere and windows may differ under another policy.
func (t *tables) recount() {
	for s := range t.use.now {
		t.use.dirty[s] = true
	}
	clear(t.use.now)
	t.live.w.Ascend(func(k userKey) bool {
		if j := getJob(t.jobs.w, k.id); j != nil {
			t.count(j, LoadOf(j), true)
		}
		return true
	})
}

// Use is what the scope's jobs are and hold.
func (s *Snapshot) Use(scope Scope) Use {
	if r, ok := s.use.Get(&scopeUse{scope: scope}); ok {
		return r.use
	}
	return Use{}
}

// Uses yields every scope with unfinished jobs: partitions, projects, users, each by name.
func (s *Snapshot) Uses(yield func(Scope, Use) bool) {
	s.use.Ascend(func(r *scopeUse) bool { return yield(r.scope, r.use) })
}

// Bounds returns the scopes with limits that a job of this partition, project and user counts in: the partition, the
// project and those above it, the user.
func (s *Snapshot) Bounds(partition, project, user string) []Bound {
	return s.meta.policy.bounds(partition, project, user)
}

// LimitsOf returns the limits that apply to a scope, nil when none do. Not to be changed.
func (s *Snapshot) LimitsOf(scope Scope) *fettlev1.Limits { return s.meta.policy.limitsOf(scope) }

// Bounds is as in a Snapshot, under the policy as this entry leaves it.
func (t *Txn) Bounds(partition, project, user string) []Bound {
	return t.compiled().bounds(partition, project, user)
}

// Use is what the scope's jobs are and hold: before this entry, with what it added by AddJob and AddUse.
func (t *Txn) Use(scope Scope) Use { return t.b.t.use.now[scope].plus(t.use[scope]) }

// AddUse counts what this entry gives to a job, so that what follows in the entry sees it. The rows are what counts in the end.
func (t *Txn) AddUse(j *Job, l Load) {
	var buf [model.MaxProjectDepth + 3]Scope
	c := t.compiled()
	for _, s := range c.scopesOf(buf[:0], j.Spec.GetPartition(), j.Account(), j.User) {
		t.use[s] = t.use[s].plus(l.use(model.WindowMS(c.limitsOf(s))))
	}
}

// Without takes off u, the use of a scope, what the job counts in it.
func (t *Txn) Without(u Use, scope Scope, j *Job) Use {
	var buf [model.MaxProjectDepth + 3]Scope
	c := t.compiled()
	for _, s := range c.scopesOf(buf[:0], j.Spec.GetPartition(), j.Account(), j.User) {
		if s == scope {
			return u.minus(LoadOf(j).use(model.WindowMS(c.limitsOf(s))))
		}
	}
	return u
}
