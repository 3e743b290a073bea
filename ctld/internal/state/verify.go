package state

import (
	"fmt"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

func inconsistent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInconsistent, fmt.Sprintf(format, args...))
}

// Verify checks what must hold at every index: rows are in legal states, each GPU is held once and by the attempt that
// says so, nodes count exactly what unended parts hold, indexes, counts and the hash agree with the rows. It reads
// everything: it is for restores and tests, not for every entry.
func (s *Snapshot) Verify() error { return s.verify(true) }

// verify without rehash trusts the rows' own hashes: they have just been made.
func (s *Snapshot) verify(rehash bool) error {
	v := &verifier{s: s, nodes: make(map[string]*held), use: make(map[Scope]Use), rehash: rehash, links: newLinks()}
	s.jobs.Ascend(func(j *Job) bool {
		v.job(j)
		return v.err == nil
	})
	if v.err != nil {
		return v.err
	}
	s.nodes.Ascend(func(n *Node) bool {
		v.node(n)
		return v.err == nil
	})
	for name := range v.nodes {
		if v.err == nil && s.Node(name) == nil {
			v.err = inconsistent("an attempt holds node %s, which is not known", name)
		}
	}
	if v.err != nil {
		return v.err
	}
	return v.indexes()
}

// held is what unended parts hold on one node.
type held struct {
	cpus uint32
	mem  int64
	gpus []GPUHold
	// jobs counts the attempts, exclusive is the one that has the node for itself.
	jobs      int
	exclusive uint64
}

type verifier struct {
	s      *Snapshot
	nodes  map[string]*held
	parts  int
	live   int
	counts Counts
	total  sum
	// use and claimed are counted from the jobs.
	use     map[Scope]Use
	claimed int
	buf     canon
	rehash  bool
	links   links
	err     error
}

func (v *verifier) fail(format string, args ...any) {
	if v.err == nil {
		v.err = inconsistent(format, args...)
	}
}

func (v *verifier) job(j *Job) {
	if !validState(j.State) {
		v.fail("job %d is in state %d", j.ID, j.State)
		return
	}
	v.counts.byState[j.State]++
	if !j.Finished() {
		v.live++
	}
	if v.rehash && hashJob(&v.buf, j) != j.sum {
		v.fail("job %d was changed behind its hash", j.ID)
	}
	v.total.add(j.sum)
	if j.ID >= v.s.meta.nextID {
		v.fail("job %d is numbered above the next number %d", j.ID, v.s.meta.nextID)
	}
	if k, ok := v.s.submits.Get(submitKey{uid: j.UID, request: j.RequestID}); !j.IsElement() && (!ok || k.id != j.ID) {
		v.fail("the request id of job %d does not lead to it", j.ID)
	}
	if p, ok := v.s.pending.Get(j); ok != (j.State == model.Pending) || ok && p != j {
		v.fail("job %d and the index of waiting jobs differ", j.ID)
	}
	if p, ok := v.s.active.Get(j); ok != j.Active() || ok && p != j {
		v.fail("job %d and the index of active jobs differ", j.ID)
	}
	if v.s.live.Has(userKey{j.UID, j.ID}) == j.Finished() {
		v.fail("job %d and the index of its owner differ", j.ID)
	}
	v.link(j)
	v.attempts(j)
	v.tenant(j)
}

func (v *verifier) attempts(j *Job) {
	for i, a := range j.Attempts {
		if i > 0 && a.GetNumber() <= j.Attempts[i-1].GetNumber() {
			v.fail("job %d has attempt %d after %d", j.ID, a.GetNumber(), j.Attempts[i-1].GetNumber())
		}
	}
	cur := j.Current()
	if cur != nil && cur.GetNumber() != j.Attempt || cur == nil && j.Attempt != 0 {
		v.fail("job %d counts %d attempts, its newest is %d", j.ID, j.Attempt, cur.GetNumber())
		return
	}
	open := 0
	for _, p := range cur.GetNodes() {
		if p.GetExit() == nil {
			open++
		}
	}
	if j.Active() != (open > 0) {
		v.fail("job %d is %s with %d unended parts", j.ID, model.StateName(j.State), open)
		return
	}
	if !j.Active() {
		return
	}
	for _, p := range cur.GetNodes() {
		if p.GetExit() == nil {
			v.part(j, p)
		}
	}
}

func (v *verifier) part(j *Job, p *fettlev1.NodeAllocation) {
	v.parts++
	if !v.s.busy.Has(nodeJob{p.GetNode(), j.ID}) {
		v.fail("job %d is missing in the index of node %s", j.ID, p.GetNode())
	}
	h := v.nodes[p.GetNode()]
	if h == nil {
		h = &held{}
		v.nodes[p.GetNode()] = h
	}
	h.cpus += p.GetCpus()
	h.mem += p.GetMemMib()
	for _, u := range p.GetGpuUuids() {
		h.gpus = append(h.gpus, GPUHold{UUID: u, JobID: j.ID, Attempt: j.Attempt, VRAMMiB: p.GetVramMib()})
	}
	if h.jobs++; j.Spec.GetExclusive() {
		h.exclusive = j.ID
	}
}

func (v *verifier) node(n *Node) {
	if v.rehash && (hashNode(&v.buf, n) != n.sum || hashMessage(tagInventory, n.Inventory) != n.inventorySum) {
		v.fail("node %s was changed behind its hash", n.Name)
	}
	v.total.add(n.sum)
	h := v.nodes[n.Name]
	if h == nil {
		h = &held{}
	}
	slices.SortFunc(h.gpus, cmpHolds)
	for i := 1; i < len(h.gpus); i++ {
		if h.gpus[i].UUID == h.gpus[i-1].UUID && (h.gpus[i].VRAMMiB == 0 || h.gpus[i-1].VRAMMiB == 0) {
			v.fail("GPU %s on %s is held by jobs %d and %d", h.gpus[i].UUID, n.Name, h.gpus[i-1].JobID, h.gpus[i].JobID)
		}
	}
	if !slices.Equal(h.gpus, n.Held) {
		v.fail("node %s says that its GPUs are held by %v, the jobs say %v", n.Name, n.Held, h.gpus)
	}
	v.claims(n)
	if h.exclusive != n.Exclusive || h.exclusive != 0 && h.jobs > 1 {
		v.fail("node %s says that job %d has it for itself, the jobs say %d, and there are %d", n.Name, n.Exclusive, h.exclusive, h.jobs)
	}
	if h.cpus != n.CPUsUsed || h.mem != n.MemUsedMiB {
		v.fail("node %s counts %d CPUs and %d MiB in use, the jobs %d and %d", n.Name, n.CPUsUsed, n.MemUsedMiB, h.cpus, h.mem)
	}
}

func (v *verifier) indexes() error {
	s := v.s
	s.requests.Ascend(func(r *Request) bool {
		if v.rehash && hashRequest(&v.buf, r) != r.sum {
			v.fail("request %q was changed behind its hash", r.ID)
		}
		v.total.add(r.sum)
		return true
	})
	for _, srv := range s.meta.servers {
		v.total.add(hashServer(srv))
	}
	v.total.add(hashMessage(tagPolicy, s.meta.policy.proto))
	v.linked()
	v.ledger()
	v.counts.Nodes, v.counts.Requests = s.nodes.Len(), s.requests.Len()
	switch {
	case v.counts != s.counts:
		v.fail("the rows count %+v, the state says %+v", v.counts, s.counts)
	case s.submits.Len() != s.jobs.Len()-v.links.elements:
		v.fail("%d request ids of %d jobs, %d of them elements", s.submits.Len(), s.jobs.Len(), v.links.elements)
	case s.pending.Len() != s.counts.Pending() || s.active.Len() != s.counts.Active() || s.live.Len() != v.live:
		v.fail("indexes hold rows that are gone")
	case s.busy.Len() != v.parts:
		v.fail("the index of nodes holds %d parts, there are %d", s.busy.Len(), v.parts)
	case s.requestOrder.Len() != s.requests.Len():
		v.fail("%d requests, %d in order", s.requests.Len(), s.requestOrder.Len())
	}
	t := &tables{clusterID: s.clusterID, meta: s.meta, total: v.total}
	if v.err == nil && t.hashOf(s.jobs.Len(), s.nodes.Len(), s.requests.Len()) != s.hash {
		v.fail("the hash is not that of the rows")
	}
	return v.err
}
