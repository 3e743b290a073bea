package state

import (
	"cmp"

	"github.com/google/btree"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// claimKey finds the claims on a node. A job claims a node once.
type claimKey struct {
	node string
	job  uint64
}

func lessClaim(a, b claimKey) bool {
	if c := cmp.Compare(a.node, b.node); c != 0 {
		return c < 0
	}
	return a.job < b.job
}

// MayClaim reports whether the job is one for which room can be kept: its row lets it start.
func (j *Job) MayClaim() bool { return j.Startable() }

// StopGraceMS is how many milliseconds the job gets between TERM and KILL when its attempt is ended.
func (j *Job) StopGraceMS() int64 {
	if j.StopGraceS > 0 {
		return j.StopGraceS * 1000
	}
	return j.Spec.GetKillGraceS() * 1000
}

// moveClaim keeps the index of claims in step.
func (t *tables) moveClaim(old, j *Job) {
	var was, is *Job
	if old != nil && old.Claim != nil {
		was = old
	}
	if j != nil && j.Claim != nil {
		is = j
	}
	if was == nil && is == nil || was != nil && is != nil && was.Claim == is.Claim {
		return
	}
	if was != nil {
		for _, a := range was.Claim.GetNodes() {
			t.claims.del(claimKey{a.GetNode(), was.ID})
		}
	}
	if is != nil {
		for _, a := range is.Claim.GetNodes() {
			t.claims.put(claimKey{a.GetNode(), is.ID})
		}
	}
}

// claimsOn yields the jobs that claim something on a node, ascending, with what they claim there.
func claimsOn(t *btree.BTreeG[claimKey], node string, job func(uint64) *Job, yield func(*Job, *fettlev1.NodeAllocation) bool) {
	t.AscendGreaterOrEqual(claimKey{node: node}, func(k claimKey) bool {
		if k.node != node {
			return false
		}
		j := job(k.job)
		if j == nil {
			return true
		}
		for _, a := range j.Claim.GetNodes() {
			if a.GetNode() == node {
				return yield(j, a)
			}
		}
		return true
	})
}

// ClaimsOn yields the waiting jobs that claim something on the node, ascending by number, with what they claim there.
func (s *Snapshot) ClaimsOn(node string, yield func(*Job, *fettlev1.NodeAllocation) bool) {
	claimsOn(s.claims, node, s.Job, yield)
}

// Claims yields the waiting jobs that have a claim, ascending by number.
func (s *Snapshot) Claims(yield func(*Job) bool) {
	seen := make(map[uint64]bool)
	var jobs []*Job
	s.claims.Ascend(func(k claimKey) bool {
		if !seen[k.job] {
			seen[k.job] = true
			jobs = append(jobs, s.Job(k.job))
		}
		return true
	})
	sortJobs(jobs)
	for _, j := range jobs {
		if !yield(j) {
			return
		}
	}
}

// ClaimsOn is as in a Snapshot, with the claims that this entry made and without those that it dropped.
func (t *Txn) ClaimsOn(node string, yield func(*Job, *fettlev1.NodeAllocation) bool) {
	more := true
	claimsOn(t.b.t.claims.w, node, func(id uint64) *Job {
		if t.claimed[id] {
			return nil
		}
		return t.Job(id)
	}, func(j *Job, a *fettlev1.NodeAllocation) bool {
		more = yield(j, a)
		return more
	})
	for _, id := range t.claimOrder {
		j := t.Job(id)
		if !more || j == nil {
			continue
		}
		for _, a := range j.Claim.GetNodes() {
			if more && a.GetNode() == node {
				more = yield(j, a)
			}
		}
	}
}

// NoteClaim says that this entry gave the job its claim.
func (t *Txn) NoteClaim(id uint64) {
	if !t.claimed[id] {
		t.claimed[id] = true
		t.claimOrder = append(t.claimOrder, id)
	}
}
