package dst

import (
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// reaches reports whether the state table leads from one state to another within one entry.
func reaches(from, to fettlev1.JobState) bool {
	seen := map[fettlev1.JobState]bool{from: true}
	for frontier := []fettlev1.JobState{from}; len(frontier) > 0; {
		var next []fettlev1.JobState
		for _, a := range frontier {
			for _, b := range model.States() {
				if !seen[b] && model.CanMove(a, b) {
					seen[b] = true
					next = append(next, b)
				}
			}
		}
		frontier = next
	}
	return seen[to]
}

// checkJob compares a job before and after an entry.
func (s *sim) checkJob(before, after *state.Job, id uint64) {
	if after == nil {
		s.fail("I1: job %d is gone", id)
		return
	}
	s.checkLinks(before, after)
	if before == nil {
		return
	}
	if before.State != after.State {
		s.tracef("job %d: %s to %s (attempt %d)", id, model.Code(before.State), model.Code(after.State), after.Attempt)
	}
	legal := reaches(before.State, after.State)
	if after.IsArray() {
		legal = before.State == after.State || model.CanMoveArray(before.State, after.State)
	}
	if model.Terminal(before.State) && before.State != after.State || !legal {
		s.fail("I5: job %d went from %s to %s", id, model.StateName(before.State), model.StateName(after.State))
	}
	if after.Attempt < before.Attempt || len(after.Attempts) < len(before.Attempts) {
		s.fail("I5: job %d went from attempt %d back to %d", id, before.Attempt, after.Attempt)
	}
	seen := map[uint32]bool{}
	for _, at := range after.Attempts {
		if seen[at.GetNumber()] {
			s.fail("I2: job %d has two attempts number %d", id, at.GetNumber())
		}
		seen[at.GetNumber()] = true
	}
	if at := after.Current(); at != nil {
		for _, a := range at.GetNodes() {
			if a.GetExit() != nil {
				s.checkExit(after, at, a)
			}
		}
	}
}

// checkExit compares what the log says of an end with what truly happened on the node.
func (s *sim) checkExit(j *state.Job, at *fettlev1.Attempt, a *fettlev1.NodeAllocation) {
	key := nodemachine.Key{Job: j.ID, Attempt: at.GetNumber(), Fence: at.GetFence()}
	var real *shim
	for _, sh := range s.shims {
		if sh.key == key && sh.node.name == a.GetNode() {
			real = sh
		}
	}
	exit := a.GetExit()
	switch {
	case real != nil && real.alive && !exit.GetLeaseExpired():
		s.fail("I3: the log freed job %d attempt %d on %s while it runs there", j.ID, at.GetNumber(), a.GetNode())
	case real != nil && real.alive:
		s.fail("I2: job %d attempt %d on %s was fenced but lives on", j.ID, at.GetNumber(), a.GetNode())
	case real == nil && exit.GetCode() == 0 && !exit.GetNeverStarted() && !exit.GetLeaseExpired() && !exit.GetShimLost():
		s.fail("I9: job %d attempt %d on %s ended with 0 but never ran", j.ID, at.GetNumber(), a.GetNode())
	case real != nil && real.exit != nil && exit.GetNeverStarted():
		s.fail("I9: job %d attempt %d on %s ran but is said to have never started", j.ID, at.GetNumber(), a.GetNode())
	case real != nil && real.exit != nil && !exit.GetLeaseExpired() && !exit.GetShimLost() && exit.GetCode() != real.code:
		if j.State != fettlev1.JobState_JOB_STATE_NODE_FAIL && exit.GetCode() == 0 {
			s.fail("I9: job %d attempt %d on %s ended with %d, the log says %d", j.ID, at.GetNumber(), a.GetNode(), real.code, exit.GetCode())
		}
	}
}

// checkNodes checks that no card is held twice and nothing exceeds the inventory.
func (s *sim) checkNodes(snap *state.Snapshot) {
	cpus := map[string]uint32{}
	held := map[string]uint64{}
	for j := range snap.Active {
		at := j.Current()
		if at == nil || at.GetEndMs() != 0 {
			s.fail("job %d is %s without a live attempt", j.ID, model.StateName(j.State))
			continue
		}
		for _, a := range at.GetNodes() {
			if a.GetExit() != nil {
				continue
			}
			cpus[a.GetNode()] += a.GetCpus()
			for _, u := range a.GetGpuUuids() {
				if other, taken := held[u]; taken {
					s.fail("I3: %s is held by jobs %d and %d", u, other, j.ID)
				}
				held[u] = j.ID
			}
		}
	}
	for n := range snap.Nodes {
		if n.CPUsUsed != cpus[n.Name] || n.CPUsUsed > n.Inventory.GetCpus() {
			s.fail("I3: %s counts %d CPUs used, attempts hold %d of %d", n.Name, n.CPUsUsed, cpus[n.Name], n.Inventory.GetCpus())
		}
		for _, h := range n.Held {
			if held[h.UUID] != h.JobID {
				s.fail("I3: %s says job %d holds %s, which job %d does", n.Name, h.JobID, h.UUID, held[h.UUID])
			}
		}
	}
}

// checkStart checks, when processes start, that nothing else that lives stands against it.
func (s *sim) checkStart(sh *shim, p *fettlev1.Prepare) {
	if sh.key.Fence > uint64(len(s.log)) {
		s.fail("R4: job %d attempt %d was started before its dispatch was committed", sh.key.Job, sh.key.Attempt)
		return
	}
	j := s.ref.Store().Snapshot().Job(sh.key.Job)
	if j == nil {
		s.fail("R4: job %d, which nobody knows, was started", sh.key.Job)
		return
	}
	for _, o := range s.shims {
		if o.key == sh.key && o.node == sh.node {
			s.fail("I2: job %d attempt %d was started twice on %s", sh.key.Job, sh.key.Attempt, sh.node.name)
		}
		if !o.alive {
			continue
		}
		if o.key.Job == sh.key.Job && o.key.Attempt != sh.key.Attempt {
			s.fail("I2: job %d attempt %d starts on %s while attempt %d runs on %s", sh.key.Job, sh.key.Attempt, sh.node.name, o.key.Attempt, o.node.name)
		}
		if o.node == sh.node {
			for _, u := range sh.gpus {
				if slices.Contains(o.gpus, u) {
					s.fail("I3: %s is given to job %d while job %d runs on it", u, sh.key.Job, o.key.Job)
				}
			}
		}
	}
	if j.State == fettlev1.JobState_JOB_STATE_CANCELLED && (s.client.cancelled[j.ID] || s.client.cancelled[j.ArrayJobID]) {
		s.fail("I12: job %d starts after its cancel was answered and it had ended", j.ID)
	}
	_ = p
}

// settled reports whether everything is over.
func (s *sim) settled() bool {
	if len(s.client.byRequest) < s.cfg.Jobs {
		return false
	}
	snap := s.ref.Store().Snapshot()
	done := true
	var held []uint64
	snap.Jobs(0, func(j *state.Job) bool {
		if !j.Finished() {
			done = false
		}
		if j.Held && pending(j.State) {
			held = append(held, j.ID)
		}
		return true
	})
	if len(held) > 0 {
		s.client.releaseAll(held)
	}
	for n := range snap.Nodes {
		if n.Drained && n.State != state.NodeDown {
			s.client.resume(n.Name)
		}
	}
	for _, sh := range s.shims {
		done = done && !sh.alive
	}
	for _, n := range s.nodes {
		done = done && (n == s.lost || len(n.dirs) == 0)
	}
	return done
}

// checkEnd checks what must hold when faults have stopped and there was time enough.
func (s *sim) checkEnd() {
	if !s.settled() {
		s.fail("I10: not everything ended: %s", s.unfinished())
		return
	}
	snap := s.ref.Store().Snapshot()
	for id := range s.client.jobs {
		j := snap.Job(id)
		if j == nil {
			s.fail("I1: answered job %d does not exist", id)
			continue
		}
		s.stats.Finished++
		if j.State == fettlev1.JobState_JOB_STATE_COMPLETED {
			s.checkCompleted(j)
		}
		if s.client.cancelled[id] && !model.Terminal(j.State) {
			s.fail("I12: cancelled job %d is %s", id, model.StateName(j.State))
		}
	}
	byRequest := map[string]uint64{}
	snap.Jobs(0, func(j *state.Job) bool {
		if j.IsArray() {
			s.checkArrayEnd(snap, j)
		}
		if j.IsElement() {
			if j.State == fettlev1.JobState_JOB_STATE_COMPLETED {
				s.checkCompleted(j)
			}
			return true
		}
		if other, ok := byRequest[j.RequestID]; ok {
			s.fail("I7: request %s made jobs %d and %d", j.RequestID, other, j.ID)
		}
		byRequest[j.RequestID] = j.ID
		return true
	})
	if err := snap.Verify(); err != nil {
		s.fail("I8: %v", err)
	}
	for n := range snap.Nodes {
		if !n.Idle() {
			s.fail("I10: %s still holds something", n.Name)
		}
	}
	for _, c := range s.controllers {
		c.applyUpTo(len(s.log))
	}
}

// checkCompleted checks that a completed job truly ran to its end with exit code 0 everywhere.
func (s *sim) checkCompleted(j *state.Job) {
	at := j.Current()
	for _, a := range at.GetNodes() {
		ok := false
		for _, sh := range s.shims {
			if sh.key.Job == j.ID && sh.key.Attempt == at.GetNumber() && sh.node.name == a.GetNode() && sh.exit != nil && sh.code == 0 {
				ok = true
			}
		}
		if !ok {
			s.fail("I9: job %d is completed, but its attempt %d on %s did not end with 0", j.ID, at.GetNumber(), a.GetNode())
		}
	}
}

// unfinished describes what hangs.
func (s *sim) unfinished() string {
	snap := s.ref.Store().Snapshot()
	text := ""
	snap.Jobs(0, func(j *state.Job) bool {
		if !j.Finished() {
			text += j.Spec.GetName() + " is " + model.StateName(j.State) + " (" + model.ReasonText(j.Reason) + " " + j.Detail + "); "
		}
		return true
	})
	for n := range snap.Nodes {
		text += n.Name + " " + n.State.String() + "; "
	}
	for _, sh := range s.shims {
		if sh.alive {
			text += sh.key.String() + " lives on " + sh.node.name + "; "
		}
	}
	for _, n := range s.nodes {
		for k := range n.dirs {
			text += k.String() + " is remembered on " + n.name + "; "
		}
	}
	return text
}
