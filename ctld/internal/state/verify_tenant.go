package state

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// tenant counts what a job is and holds, and checks its claim.
func (v *verifier) tenant(j *Job) {
	c := v.s.meta.policy
	if l := LoadOf(j); l != (Load{}) {
		for _, s := range c.scopesOf(nil, j.Spec.GetPartition(), j.Account(), j.User) {
			v.use[s] = v.use[s].plus(l.use(model.WindowMS(c.limitsOf(s))))
		}
	}
	if j.Claim == nil {
		return
	}
	if !j.MayClaim() {
		v.fail("job %d is %s and has a claim", j.ID, model.StateName(j.State))
	}
	for _, a := range j.Claim.GetNodes() {
		v.claimed++
		if !v.s.claims.Has(claimKey{a.GetNode(), j.ID}) {
			v.fail("the claim of job %d is missing in the index of node %s", j.ID, a.GetNode())
		}
	}
}

// claims wants each claimed GPU to be claimed once, and to be held by nobody but those who have to make room for it.
func (v *verifier) claims(n *Node) {
	by := make(map[string]uint64)
	v.s.ClaimsOn(n.Name, func(j *Job, a *fettlev1.NodeAllocation) bool {
		for _, u := range a.GetGpuUuids() {
			if other, twice := by[u]; twice {
				v.fail("GPU %s on %s is claimed by jobs %d and %d", u, n.Name, other, j.ID)
			}
			by[u] = j.ID
			for _, h := range n.Held {
				if h.UUID == u && !slices.ContainsFunc(j.Claim.GetVictims(), func(w *raftlogv1.Victim) bool {
					return w.GetJobId() == h.JobID && w.GetAttempt() == h.Attempt
				}) {
					v.fail("GPU %s on %s, which job %d claims, is held by job %d", u, n.Name, j.ID, h.JobID)
				}
			}
		}
		return true
	})
}

// ledger checks the rows and counters that are not jobs or nodes.
func (v *verifier) ledger() {
	s := v.s
	s.usage.Ascend(func(u *Usage) bool {
		if v.rehash && hashUsage(&v.buf, u) != u.sum {
			v.fail("the usage of %s in %q was changed behind its hash", u.User, u.Project)
		}
		v.total.add(u.sum)
		return true
	})
	s.spend.Ascend(func(r *Spend) bool {
		if v.rehash && hashSpend(&v.buf, r) != r.sum {
			v.fail("what %s used was changed behind its hash", r.Scope.Name)
		}
		v.total.add(r.sum)
		return true
	})
	s.reservations.Ascend(func(r *Reservation) bool {
		if v.rehash && hashMessage(tagReservation, r.Reservation) != r.sum {
			v.fail("reservation %s was changed behind its hash", r.GetName())
		}
		v.total.add(r.sum)
		return true
	})
	shown := 0
	s.Uses(func(scope Scope, u Use) bool {
		if shown++; v.use[scope] != u {
			v.fail("%s counts %+v, its jobs are %+v", scope.Name, u, v.use[scope])
		}
		return true
	})
	if shown != len(v.use) {
		v.fail("%d scopes are counted, jobs are in %d", shown, len(v.use))
	}
	if s.claims.Len() != v.claimed {
		v.fail("the index of claims holds %d, jobs have %d", s.claims.Len(), v.claimed)
	}
}

// tenantRecords yields the ledger and the reservations, each in the order of its key.
func (s *Snapshot) tenantRecords(yield func(*raftlogv1.SnapshotRecord) bool) {
	ok := true
	s.usage.Ascend(func(u *Usage) bool {
		ok = yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Usage{Usage: u.record()}})
		return ok
	})
	if !ok {
		return
	}
	s.spend.Ascend(func(r *Spend) bool {
		ok = yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Spend{Spend: r.record()}})
		return ok
	})
	if !ok {
		return
	}
	s.reservations.Ascend(func(r *Reservation) bool {
		return yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Reservation{Reservation: r.Reservation}})
	})
}

func (b *Builder) addUsage(p *raftlogv1.UsageRecord) error {
	u := &Usage{Project: p.GetProject(), User: p.GetUser(), GPUMS: p.GetGpuMs(), UpdatedMS: p.GetUpdatedMs()}
	if last, ok := b.t.usage.w.Max(); ok && !lessUsage(last, u) {
		return badRecord("the usage of %.64q in %.64q is out of order", u.User, u.Project)
	}
	b.t.setUsage(&b.buf, u)
	return nil
}

func (b *Builder) addSpend(p *raftlogv1.SpendRecord) error {
	r := &Spend{Scope: Scope{p.GetKind(), p.GetName()}, Slots: p.GetSlots()}
	if last, ok := b.t.spend.w.Max(); ok && !lessSpend(last, r) {
		return badRecord("what %.64q used is out of order", p.GetName())
	}
	b.t.setSpend(&b.buf, r)
	return nil
}

func (b *Builder) addReservation(p *fettlev1.Reservation) error {
	r, err := compileReservation(p)
	if err != nil {
		return badRecord("reservation %.64q: %v", p.GetName(), err)
	}
	if last, ok := b.t.reservations.w.Max(); ok && !lessReservation(last, r) {
		return badRecord("reservation %.64q is out of order", p.GetName())
	}
	b.t.setReservation(r)
	return nil
}
