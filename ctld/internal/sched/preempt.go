package sched

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	"github.com/fettle-hpc/fettle/plugins/preempt"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Preemption has two phases. Plan lists the first blocked jobs that ask for it, with every attempt that the rules let be
// stopped for them, in Plan.Ask; whoever picks the victims answers; Preempt checks the answer and says what each job gets.

// maxCandidates bounds the attempts that are offered for stopping.
const maxCandidates = 4096

// ask describes the jobs that want to preempt, as the cluster stands after the plan's starts.
func (s *pass) ask() *preempt.Request {
	blocked := s.findPreemptors()
	if len(blocked) == 0 || s.p.silent {
		return nil
	}
	s.heads.pendUpTo(blocked[len(blocked)-1])
	a := asking{s: s, req: &preempt.Request{NowMS: s.now}, at: map[uint64]int{}, node: map[int]int{}, views: map[int][]view{}}
	// Cheap ones first, so that the bound on their number leaves out those who would hardly be chosen.
	for _, r := range s.p.running {
		if c, ok := s.costOf(r); ok {
			a.all = append(a.all, c)
		}
	}
	if len(a.all) == 0 {
		return nil
	}
	slices.SortFunc(a.all, func(x, y costed) int { return cmp.Or(cmp.Compare(x.cost, y.cost), cmp.Compare(x.a.ID, y.a.ID)) })
	a.all = a.all[:min(len(a.all), maxCandidates)]
	a.index = make(map[uint64]int, len(a.all))
	for i := range a.all {
		a.index[a.all[i].a.ID] = i
	}
	for _, e := range blocked {
		a.add(e)
	}
	if len(a.req.Jobs) == 0 {
		return nil
	}
	return a.req
}

// costed is an attempt that might be stopped, with what that loses in GPU-seconds.
type costed struct {
	a             *attempt
	lost, restart int64
	cost          uint64
}

// costOf is what stopping an attempt loses; false when no rule lets it be stopped for anybody.
func (s *pass) costOf(a *attempt) (costed, bool) {
	part, ok := s.p.partitions[a.Partition]
	if !ok || part.Preempt == PreemptOff || a.Fixed || a.Ending || a.NoPreemptible && part.AllowNoPreemptible || a.Preempted >= part.Budget {
		return costed{}, false
	}
	ran := s.now - a.StartMS
	c := costed{a: a, restart: a.RestartS}
	if c.restart == 0 {
		c.restart = DefaultRestartS
	}
	if !a.OnSignal {
		c.lost = (s.now - max(a.StartMS, a.CheckpointMS)) / 1000
	}
	loss := int64(s.p.opt.MaxLoss)
	if loss == 0 {
		loss = DefaultMaxLoss
	}
	// Its minimum run, five times what coming back is known to cost, and the bound on the share of its run that it loses: so no
	// more than that share of all GPU time is ever lost. Where jobs are ended without being asked to save, that is meant to cost.
	if ran < part.MinRunMS || ran < 5*a.RestartS*1000 || part.Preempt == PreemptCheckpoint && (c.lost+c.restart)*1_000_000 > loss*ran {
		return costed{}, false
	}
	one := preempt.Candidate{Size: sizeOf(a), LostS: c.lost, RestartS: c.restart}
	c.cost = one.Cost()
	return c, true
}

// sizeOf is an attempt's GPUs, or an eighth of its CPUs.
func sizeOf(a *attempt) uint32 {
	if n := cards(a.Allocs); n > 0 {
		return uint32(n)
	}
	cpus := uint32(0)
	for _, al := range a.Allocs {
		cpus += al.GetCpus()
	}
	return max(cpus/8, 1)
}

// yields reports whether an attempt has to make room for a job.
func (s *pass) yields(a *attempt, e *entry) bool {
	part := s.p.partitions[a.Partition]
	if part.PriorityGap > 0 && int64(a.Priority)-int64(e.Priority) < int64(part.PriorityGap) {
		return false
	}
	return a.Score > e.Score || s.p.reclaims(e, a)
}

// reclaims reports whether a job gets back what an attempt's project has borrowed: with the job, its own project stays within
// what it can count on, and the other one has more than that.
func (p *Planner) reclaims(e *entry, a *attempt) bool {
	mine, theirs := p.projects[e.Project], p.projects[a.Project]
	if mine.Guarantee == 0 || e.Project == a.Project {
		return false
	}
	used := func(name string) int64 {
		if m := p.meters[Scope{ScopeProject, name}]; m != nil {
			return m.total.milli
		}
		return 0
	}
	return used(e.Project)+e.least.milli <= int64(mine.Guarantee)*1000 && used(a.Project) > int64(theirs.Guarantee)*1000
}

// asking builds the request.
type asking struct {
	s   *pass
	req *preempt.Request
	all []costed
	// at and node are the places in the request of candidates and nodes.
	at   map[uint64]int
	node map[int]int
	// index finds an attempt in all. views are what is held on a node, but for what is kept for heads.
	index map[uint64]int
	views map[int][]view
	// order are the nodes that are up by name, which decides where all else is equal.
	order []int
}

// view is what one holder has on a node.
type view struct {
	// may is its place among those that might be stopped, -1 for one that is not.
	may   int
	cards uint64
	cpus  int64
	mem   int64
}

// view is what is held on a node, looked up once.
func (a *asking) view(i int) []view {
	if v, ok := a.views[i]; ok {
		return v
	}
	c := a.s.p.cluster
	node := c.Node(i)
	var list []view
	for h := range c.HoldersOn(i) {
		if a.s.heads.keeps(h) {
			continue
		}
		for _, al := range c.Holding(h) {
			if al.GetNode() == node.Name {
				v := seen(node, al)
				if k, ok := a.index[h]; ok {
					v.may = k
				}
				list = append(list, v)
				break
			}
		}
	}
	a.views[i] = list
	return list
}

func seen(node *place.Node, al *fettlev1.NodeAllocation) view {
	v := view{may: -1, cpus: int64(al.GetCpus()), mem: al.GetMemMib()}
	for k := range node.GPUs {
		if slices.Contains(al.GetGpuUuids(), node.GPUs[k].UUID) {
			v.cards |= 1 << k
		}
	}
	return v
}

func (a *asking) add(e *entry) {
	s := a.s
	s.heads.yield(e)
	end, _ := e.end(s.now)
	allowed, w := s.win.allowed(e, end)
	if w != nil {
		return
	}
	allowed = allowed.And(s.ready)
	victims := make([]bool, len(a.all))
	job := preempt.Job{ID: e.ID, Score: e.Score}
	nodes := place.NewNodeSet(s.p.cluster.Len())
	for k, c := range a.all {
		if !s.yields(c.a, e) {
			continue
		}
		touches := false
		for _, al := range c.a.Allocs {
			if i, ok := s.p.cluster.Position(al.GetNode()); ok && allowed.Has(i) {
				touches = true
				nodes.Add(i)
			}
		}
		if touches {
			victims[k] = true
			job.Candidates = append(job.Candidates, a.candidate(c))
		}
	}
	if len(job.Candidates) == 0 {
		return
	}
	slices.Sort(job.Candidates)
	if a.order == nil {
		a.order = slices.SortedFunc(s.ready.All(), func(x, y int) int { return cmp.Compare(s.p.cluster.Name(x), s.p.cluster.Name(y)) })
	}
	for _, n := range s.p.choices(e, allowed) {
		need := preempt.Need{Nodes: n.nodes, GPUs: n.gpus, CPUs: int(max(e.Needs.Request.CPUs, 1)), MemoryMiB: e.Needs.Request.MemMiB, GPUType: n.typ}
		for _, i := range a.order {
			if !allowed.Has(i) {
				continue
			}
			p, free := a.place(i, n, e, victims)
			if free >= n.gpus && p.CPUs >= need.CPUs && p.MemoryMiB >= need.MemoryMiB || nodes.Has(i) {
				need.Places = append(need.Places, p)
			}
		}
		if len(need.Places) >= need.Nodes {
			job.Needs = append(job.Needs, need)
		}
	}
	if len(job.Needs) > 0 {
		a.req.Jobs = append(a.req.Jobs, job)
	}
}

// candidate is an attempt's place in the request.
func (a *asking) candidate(c costed) int {
	if i, ok := a.at[c.a.ID]; ok {
		return i
	}
	v := preempt.Candidate{
		ID: c.a.ID, Size: sizeOf(c.a), LostS: c.lost, RestartS: c.restart, RunS: (a.s.now - c.a.StartMS) / 1000, Score: c.a.Score, Preempted: c.a.Preempted,
	}
	for _, al := range c.a.Allocs {
		i, ok := a.s.p.cluster.Position(al.GetNode())
		if !ok {
			continue
		}
		h := preempt.Holding{Node: a.nodeAt(i), CPUs: int(al.GetCpus()), MemoryMiB: al.GetMemMib()}
		for k, g := range a.s.p.cluster.Node(i).GPUs {
			if slices.Contains(al.GetGpuUuids(), g.UUID) {
				h.Cards = append(h.Cards, k)
			}
		}
		v.Holds = append(v.Holds, h)
	}
	a.at[c.a.ID] = len(a.req.Candidates)
	a.req.Candidates = append(a.req.Candidates, v)
	return a.at[c.a.ID]
}

func (a *asking) nodeAt(i int) int {
	k, ok := a.node[i]
	if !ok {
		k = len(a.req.Nodes)
		a.node[i] = k
		a.req.Nodes = append(a.req.Nodes, a.s.p.cluster.Name(i))
	}
	return k
}

// place is what a node has for a need: what is free, and the cards that victims alone hold.
func (a *asking) place(i int, n choice, e *entry, victims []bool) (preempt.Place, int) {
	node := a.s.p.cluster.Node(i)
	var held, kept uint64
	cpus, mem := int64(node.CPUs), node.MemMiB
	take := func(v view) {
		cpus, mem = cpus-v.cpus, mem-v.mem
		if held |= v.cards; v.may < 0 || !victims[v.may] {
			kept |= v.cards
		}
	}
	for _, v := range a.view(i) {
		take(v)
	}
	for _, k := range a.s.heads.kept {
		if k.entry == nil || k.out {
			continue
		}
		for _, al := range k.allocs {
			if al.GetNode() == node.Name {
				take(seen(node, al))
			}
		}
	}
	p := preempt.Place{Node: a.nodeAt(i), CPUs: int(max(cpus, 0)), MemoryMiB: max(mem, 0)}
	var free uint64
	for k, g := range node.GPUs {
		if n.typ != "" && g.Type != n.typ || !g.Usable || g.BusyOutside || g.MemMiB < e.Needs.Request.MinCardMiB {
			continue
		}
		switch {
		case held&(1<<k) == 0:
			free |= 1 << k
		case kept&(1<<k) == 0:
			p.Cards = append(p.Cards, k)
		}
	}
	p.GPUs = bits.OnesCount64(free)
	return p, p.GPUs
}

// choice is one way to meet a job's wish for GPUs.
type choice struct {
	typ         string
	nodes, gpus int
}

// choices are the ways in which a job's wish could be met on some nodes, in order of preference: without a type, each type there is.
func (p *Planner) choices(e *entry, nodes place.NodeSet) []choice {
	r := &e.Needs.Request
	var out []choice
	add := func(typ string, n int) {
		if !r.Total {
			out = append(out, choice{typ, max(r.Nodes, 1), n})
			return
		}
		// As few nodes as possible, with equally many each.
		for k := 1; k <= n && (r.Nodes == 0 || k <= r.Nodes); k++ {
			if n%k == 0 && n/k <= place.MaxCards {
				out = append(out, choice{typ, k, n / k})
			}
		}
	}
	for i := -1; i < len(r.Alternatives); i++ {
		c := place.GPUChoice{Type: r.GPUType, Count: r.GPUs}
		if i >= 0 {
			c = r.Alternatives[i]
		}
		if c.Type != "" || c.Count == 0 {
			add(c.Type, c.Count)
			continue
		}
		for _, typ := range p.typesOn(nodes) {
			add(typ, c.Count)
		}
	}
	return out
}

// typesOn are the types of cards that nodes have, by name.
func (p *Planner) typesOn(nodes place.NodeSet) []string {
	var types []string
	for i := range nodes.All() {
		for _, g := range p.cluster.Node(i).GPUs {
			if !slices.Contains(types, g.Type) {
				types = append(types, g.Type)
			}
		}
	}
	slices.Sort(types)
	return types
}

// Preempt turns an answer to plan.Ask into what should happen, with the planner as it was when it made the plan. A selection
// that breaks a rule, or with which the job would not fit, is an error; nothing is done then.
func (p *Planner) Preempt(plan *Plan, answer []preempt.Selection) ([]Preemption, error) {
	if plan.Ask == nil {
		return nil, nil
	}
	if err := preempt.Check(plan.Ask, answer); err != nil {
		return nil, err
	}
	mark := p.cluster.Mark()
	defer p.cluster.Undo(mark)
	for i, pl := range plan.Placements {
		p.cluster.Hold(holderStart|uint64(i), pl.Allocs)
	}
	var out []Preemption
	for _, sel := range answer {
		if len(sel.Victims) == 0 {
			continue
		}
		pr, err := p.carve(plan, sel, len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, pr)
	}
	return out, nil
}

// carve checks that a selection frees enough for its job, and books it.
func (p *Planner) carve(plan *Plan, sel preempt.Selection, no int) (Preemption, error) {
	ask, e := plan.Ask, p.jobs[sel.Job]
	if e == nil {
		return Preemption{}, fmt.Errorf("job %d does not wait", sel.Job)
	}
	// What is kept for those ahead is not its.
	for i, h := range plan.Heads {
		if o := p.jobs[h.Job]; o != nil && before(o, e) {
			p.cluster.Hold(holderReserve|uint64(i), h.held)
		} else {
			p.cluster.Release(holderReserve | uint64(i))
		}
	}
	k := slices.IndexFunc(ask.Jobs, func(j preempt.Job) bool { return j.ID == sel.Job })
	need := ask.Jobs[k].Needs[sel.Need]
	pr := Preemption{Job: sel.Job, Reason: sel.Reason}
	for _, id := range sel.Victims {
		a := p.running[id]
		if a == nil {
			return Preemption{}, fmt.Errorf("job %d does not run", id)
		}
		p.cluster.Release(id)
		i := slices.IndexFunc(ask.Candidates, func(c preempt.Candidate) bool { return c.ID == id })
		pr.Victims = append(pr.Victims, Victim{Job: id, Mode: p.partitions[a.Partition].Preempt, LostGPUS: ask.Candidates[i].LostS * int64(cards(a.Allocs))})
	}
	nodes := place.NewNodeSet(p.cluster.Len())
	for _, n := range sel.Nodes {
		if i, ok := p.cluster.Position(ask.Nodes[n]); ok {
			nodes.Add(i)
		}
	}
	req := e.Needs.Request
	req.Total, req.Even, req.Alternatives = false, false, nil
	req.Nodes, req.GPUs, req.GPUType = need.Nodes, need.GPUs, need.GPUType
	allocs, ok := p.cluster.Place(&req, nodes)
	if !ok {
		return Preemption{}, fmt.Errorf("job %d does not fit although %d victims make room", sel.Job, len(sel.Victims))
	}
	p.cluster.Hold(holderStart|1<<40|uint64(no), allocs)
	pr.Allocs = allocs
	return pr, nil
}

// findPreemptors finds the first blocked jobs that ask for others to be preempted.
func (s *pass) findPreemptors() (list []*entry) {
	limit, looked := s.p.opt.PreemptFor, 0
	if limit == 0 {
		limit = DefaultPreemptFor
	}
	allowed := false
	for _, part := range s.p.partitions {
		allowed = allowed || part.Preempt != PreemptOff
	}
	if !allowed || limit < 0 {
		return nil
	}
	s.p.preemptors.Ascend(func(e *entry) bool {
		sh, _, _ := s.fresh(e)
		array := e.array()
		full := e.ArrayMax > 0 && s.p.siblings[array]+s.elements[array] >= e.ArrayMax
		if e.began != s.no && len(e.Claim) == 0 && !e.unfit && !sh.away && !full && e.account.over(s.no, e.least).kind == 0 {
			list = append(list, e)
		}
		looked++
		return len(list) < limit && looked < maxLook
	})
	if len(list) > 0 {
		// With time more may be preempted.
		s.wake(s.now + preemptAgain)
	}
	return list
}

const (
	// maxLook bounds how many jobs that ask for preemption are looked at.
	maxLook = 256
	// preemptAgain is when to look again for victims, in milliseconds.
	preemptAgain = 60_000
)

// claimed is why a job waits for which room is being made.
var claimed = Wait{Reason: fettlev1.Reason_REASON_PREEMPTING, Detail: "running jobs make room for it"}
