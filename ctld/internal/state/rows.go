package state

import (
	"cmp"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// setJob puts, replaces (old is the row before) or removes (j is nil) a row and keeps every index, count and hash in step.
func (t *tables) setJob(buf *canon, old, j *Job) {
	if j != nil {
		j.sum = hashJob(buf, j)
		t.total.add(j.sum)
	}
	if old != nil {
		t.total.sub(old.sum)
		t.counts.byState[old.State]--
	}
	t.counts.ArrayLeft += j.left() - old.left()
	switch {
	case j == nil:
		t.jobs.del(old)
		if !old.IsElement() {
			t.submits.del(submitKey{uid: old.UID, request: old.RequestID})
		}
	default:
		t.jobs.put(j)
		t.counts.byState[j.State]++
		if old == nil && !j.IsElement() {
			t.submits.put(submitKey{uid: j.UID, request: j.RequestID, id: j.ID})
		}
	}
	move(&t.pending, old, j, func(j *Job) bool { return j.State == model.Pending })
	move(&t.active, old, j, (*Job).Active)

	wasLive, isLive := old != nil && !old.Finished(), j != nil && !j.Finished()
	switch {
	case isLive && !wasLive:
		t.live.put(userKey{j.UID, j.ID})
	case wasLive && !isLive:
		t.live.del(userKey{old.UID, old.ID})
	}
	if isLive {
		t.unfinished[j.UID] += j.weight()
	}
	if wasLive {
		if t.unfinished[old.UID] -= old.weight(); t.unfinished[old.UID] == 0 {
			delete(t.unfinished, old.UID)
		}
	}
	t.moveLinks(old, j)
	t.moveParts(old, j)
	t.moveClaim(old, j)
	t.moveUse(old, j)
}

// move keeps an index of whole rows in step.
func move(idx *tree[*Job], old, j *Job, belongs func(*Job) bool) {
	switch {
	case j != nil && belongs(j):
		idx.put(j)
	case old != nil && belongs(old):
		idx.del(old)
	}
}

// moveParts keeps the index of nodes with unended parts in step.
func (t *tables) moveParts(old, j *Job) {
	before, after := liveParts(old), liveParts(j)
	if before == after {
		return
	}
	same := before != nil && after != nil && before.GetNumber() == after.GetNumber()
	for rank, a := range before.GetNodes() {
		if a.GetExit() == nil && (!same || after.GetNodes()[rank].GetExit() != nil) {
			t.busy.del(nodeJob{a.GetNode(), old.ID})
		}
	}
	if same {
		return
	}
	for _, a := range after.GetNodes() {
		if a.GetExit() == nil {
			t.busy.put(nodeJob{a.GetNode(), j.ID})
		}
	}
}

// liveParts returns the attempt that may have parts that have not ended.
func liveParts(j *Job) *fettlev1.Attempt {
	if j == nil || !j.Active() {
		return nil
	}
	return j.Current()
}

func (t *tables) setNode(buf *canon, old, n *Node) {
	if n != nil {
		if old == nil || old.Inventory != n.Inventory {
			n.inventorySum = hashMessage(tagInventory, n.Inventory)
		}
		n.sum = hashNode(buf, n)
		t.total.add(n.sum)
		t.nodes.put(n)
	}
	if old != nil {
		t.total.sub(old.sum)
		if n == nil {
			t.nodes.del(old)
		}
	}
	t.counts.Nodes = t.nodes.w.Len()
}

func (t *tables) setRequest(buf *canon, r *Request) {
	if old, ok := t.requests.w.Get(r); ok {
		t.dropRequest(old)
	}
	r.sum = hashRequest(buf, r)
	t.total.add(r.sum)
	t.requests.put(r)
	t.requestOrder.put(r)
	t.requestWeight += int(r.Weight)
	t.counts.Requests = t.requests.w.Len()
}

// forget drops the oldest requests beyond the limits.
func (t *tables) forget() {
	for t.requests.w.Len() > model.MaxRemembered || t.requestWeight > model.MaxRememberedWeight {
		oldest, ok := t.requestOrder.w.Min()
		if !ok {
			break
		}
		t.dropRequest(oldest)
	}
	t.counts.Requests = t.requests.w.Len()
}

func (t *tables) dropRequest(r *Request) {
	t.total.sub(r.sum)
	t.requests.del(r)
	t.requestOrder.del(r)
	t.requestWeight -= int(r.Weight)
}

// setPolicy takes a policy that model.ValidatePolicy has accepted.
func (t *tables) setPolicy(p *fettlev1.ClusterPolicy) *model.FieldError {
	c, err := compilePolicy(p)
	if err != nil {
		return err
	}
	t.usePolicy(c)
	return nil
}

func (t *tables) usePolicy(c *policy) {
	if t.meta.policy != nil {
		t.total.sub(t.meta.policy.sum)
	}
	c.sum = hashMessage(tagPolicy, c.proto)
	t.total.add(c.sum)
	t.meta.policy = c
	t.dropSpend()
	t.recount()
}

func (t *tables) setServer(v *raftlogv1.ServerChange) {
	servers := slices.Clone(t.meta.servers)
	i, ok := slices.BinarySearchFunc(servers, v.GetServerId(), func(s *raftlogv1.ServerChange, id string) int {
		return cmp.Compare(s.GetServerId(), id)
	})
	if ok {
		t.total.sub(hashServer(servers[i]))
		servers[i] = v
	} else {
		servers = slices.Insert(servers, i, v)
	}
	t.total.add(hashServer(v))
	t.meta.servers = servers
}
