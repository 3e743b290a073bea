package state

import (
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Commit moves the transaction's changes into the tables, in an order that every replica shares, and notes what changed.
func (t *Txn) Commit() {
	b := t.b
	if !b.open {
		return
	}
	b.open = false
	tab, buf := b.t, &b.s.buf
	for _, name := range t.nodeOrder {
		e := t.nodes[name]
		if e.old == nil && e.now == nil {
			continue
		}
		tab.setNode(buf, e.old, e.now)
		b.changes.Nodes = append(b.changes.Nodes, name)
		if ev := nodeEvent(t, name, e); ev != nil {
			b.changes.Events = append(b.changes.Events, ev)
		}
	}
	for _, id := range t.jobOrder {
		e := t.jobs[id]
		if e.old == nil && e.now == nil {
			continue
		}
		if e.now != nil {
			e.now.ModifiedIndex = t.Index()
			if e.now.Claim != nil && !e.now.MayClaim() {
				// Whatever became of the job, it is not the one that room is kept for.
				e.now.Claim = nil
			}
		}
		tab.setJob(buf, e.old, e.now)
		b.changes.Jobs = append(b.changes.Jobs, id)
		if ev := jobEvent(t, e); ev != nil {
			b.changes.Events = append(b.changes.Events, ev)
		}
	}
	for _, r := range t.requests {
		tab.setRequest(buf, r)
		tab.forget()
	}
	for _, u := range t.usage {
		tab.setUsage(buf, u)
	}
	for _, s := range t.spend {
		tab.setSpend(buf, s)
	}
	for _, name := range t.unreserved {
		tab.dropReservation(name)
		b.changes.Reservations = true
	}
	for _, r := range t.reserved {
		tab.setReservation(r)
		b.changes.Reservations = true
	}
	for _, v := range t.servers {
		tab.setServer(v)
		b.changes.Servers = true
	}
	if t.policy != nil {
		tab.usePolicy(t.policy)
		b.changes.Policy = true
	}
	if t.leader != nil {
		tab.meta.leader = *t.leader
		b.changes.Servers = true
	}
	tab.meta.term, tab.meta.nextID, tab.meta.requestSeq = t.term, t.nextID, t.requestSeq
}

// jobEvent tells watchers what became of a job; nil when nothing that people follow changed.
func jobEvent(t *Txn, e *jobEdit) *fettlev1.Event {
	j, old := e.now, e.old
	if j == nil {
		return nil
	}
	ev := &fettlev1.Event{
		Index: t.Index(), TimeMs: t.NowMS(), JobId: j.ID,
		State: j.State, Attempt: j.Attempt, Reason: j.Reason, Detail: j.Detail, User: j.User,
		ArrayJobId: j.ArrayJobID, ArrayIndex: j.ArrayIndex,
	}
	if old == nil {
		return ev
	}
	ev.OldState = old.State
	if old.State == j.State && old.Attempt == j.Attempt && old.Reason == j.Reason && old.Detail == j.Detail &&
		old.Held == j.Held && old.CancelRequested == j.CancelRequested && old.RequeueRequested == j.RequeueRequested &&
		old.Spec == j.Spec {
		return nil
	}
	return ev
}

// nodeEvent tells watchers what became of a node, in words.
func nodeEvent(t *Txn, name string, e *nodeEdit) *fettlev1.Event {
	ev := &fettlev1.Event{Index: t.Index(), TimeMs: t.NowMS(), Node: name}
	switch n, old := e.now, e.old; {
	case n == nil:
		ev.Detail = "removed"
	case old == nil:
		ev.Detail = "registered"
	case old.State != n.State:
		ev.Detail = strings.ToLower(strings.TrimPrefix(n.State.String(), "NODE_STATE_"))
	case old.Drained != n.Drained && n.Drained:
		ev.Detail = "drained: " + n.DrainReason
	case old.Drained != n.Drained:
		ev.Detail = "resumed"
	case old.Inventory != n.Inventory:
		ev.Detail = "inventory changed"
	case old.Session != n.Session:
		ev.Detail = "connected"
	default:
		return nil
	}
	return ev
}
