package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// settle carries on what follows from an entry's changes for other jobs: arrays count their elements and end with the last
// one, and jobs that waited for others are let go or ended. It runs once at the end of each entry, on everything that the
// entry changed, in the order in which it did.
func settle(t *state.Txn) {
	s := settler{t: t}
	var others []turn
	t.Edits(func(old, now *state.Job) {
		switch {
		case now == nil || old != nil && !follows(old, now):
		case now.IsElement():
			// Elements first, so that their array knows of all of them before it is looked at.
			s.queue = append(s.queue, turnFrom(old, now.ID))
		default:
			others = append(others, turnFrom(old, now.ID))
		}
	})
	s.queue = append(s.queue, others...)
	for i := 0; i < len(s.queue); i++ {
		s.follow(s.queue[i])
	}
	for _, k := range s.names {
		s.letFirst(k)
	}
}

// follows reports whether a change to a job may matter to others.
func follows(old, now *state.Job) bool {
	return old.State != now.State || old.StartMS != now.StartMS || old.Array != now.Array ||
		old.Spec != now.Spec && old.Spec.GetName() != now.Spec.GetName()
}

// turn is a job whose row differs from what it was.
type turn struct {
	id      uint64
	from    fettlev1.JobState
	started bool
	name    string
}

func turnFrom(old *state.Job, id uint64) turn {
	if old == nil {
		return turn{id: id}
	}
	return turn{id: id, from: old.State, started: old.StartMS > 0, name: old.Spec.GetName()}
}

// ownedName is a job name of one user.
type ownedName struct {
	uid  uint32
	name string
}

type settler struct {
	t     *state.Txn
	queue []turn
	// names are those of which a job has gone, each once.
	names  []ownedName
	marked map[ownedName]bool
}

// follow does what one change entails; what it changes in turn comes at the end of the queue.
func (s *settler) follow(c turn) {
	j := s.t.Job(c.id)
	if j == nil {
		return
	}
	if j.IsArray() && j.Array.Left == nil {
		s.tellDropped(j)
	}
	if j.IsArray() && !j.Finished() && j.Array.Over() {
		s.endArray(j.ID)
		return
	}
	started := j.StartMS > 0 && !c.started
	over := j.Finished() && !model.Terminal(c.from)
	if j.IsElement() {
		s.tally(j, c, started, over)
	}
	if started || over {
		s.tellDependents(j)
	}
	renamed := c.name != "" && c.name != j.Spec.GetName()
	if (over || renamed) && !j.IsElement() {
		s.mark(ownedName{j.UID, c.nameOr(j)})
	}
	if renamed {
		s.mark(ownedName{j.UID, j.Spec.GetName()})
	}
}

func (c turn) nameOr(j *state.Job) string {
	if c.name != "" {
		return c.name
	}
	return j.Spec.GetName()
}

func (s *settler) mark(k ownedName) {
	if s.marked == nil {
		s.marked = make(map[ownedName]bool)
	}
	if !s.marked[k] {
		s.marked[k] = true
		s.names = append(s.names, k)
	}
}

// tally counts an element's change in its array.
func (s *settler) tally(j *state.Job, c turn, started, over bool) {
	a := s.t.EditArray(j.ArrayJobID)
	if a == nil {
		return
	}
	if c.from != model.Unspecified {
		*a.Count(c.from)--
	}
	*a.Count(j.State)++
	row := s.t.EditJob(j.ArrayJobID)
	if started && row.StartMS == 0 {
		s.queue = append(s.queue, turnFrom(row, row.ID))
		row.StartMS = j.StartMS
	}
	if !over {
		return
	}
	row.ExitCode = max(row.ExitCode, j.ExitCode)
	if row.EndReason == 0 && j.State != model.Completed && j.State != model.Cancelled {
		row.EndReason = j.Reason
	}
	if a.Over() && !row.Finished() {
		s.endArray(row.ID)
	}
}

// endArray ends an array's own row, all of whose elements are over.
func (s *settler) endArray(id uint64) {
	j := s.t.EditJob(id)
	s.queue = append(s.queue, turnFrom(j, id))
	a := j.Array
	to := model.Completed
	switch {
	case j.CancelRequested:
		to = model.Cancelled
	case a.Failed > 0:
		to = model.Failed
	case a.Cancelled > 0:
		to = model.Cancelled
	}
	if !model.CanMoveArray(j.State, to) {
		panic(fmt.Sprintf("array %d may not move from %s to %s", j.ID, model.StateName(j.State), model.StateName(to)))
	}
	j.State, j.EndMS, j.Held, j.HeldByAdmin = to, s.t.NowMS(), false, false
	j.Reason = j.EndReason
	if to == model.Completed {
		j.Reason, j.Detail, j.ExitCode = 0, "", 0
		return
	}
	j.ExitCode = max(j.ExitCode, 1)
	if j.Reason == 0 {
		j.Reason = fettlev1.Reason_REASON_CANCELLED_BY_USER
	}
	if to == model.Failed {
		j.Detail = fmt.Sprintf("%d of %d elements failed", a.Failed, a.Total())
	}
}

// endUnstarted ends a job that waits, or those elements of an array that have no row yet.
func endUnstarted(t *state.Txn, id uint64, reason fettlev1.Reason, detail string) {
	j := t.EditJob(id)
	if j.IsArray() {
		dropLeft(t, id, reason)
		j.Detail = detail
		return
	}
	setState(j, model.Cancelled)
	j.Held, j.HeldByAdmin = false, false
	j.Reason, j.Detail, j.EndReason, j.EndMS, j.ExitCode = reason, detail, reason, t.NowMS(), 1
}

// dropLeft counts the elements of an array that have no row yet as cancelled.
func dropLeft(t *state.Txn, id uint64, reason fettlev1.Reason) {
	a := t.EditArray(id)
	if a.Left == nil {
		return
	}
	a.Cancelled += uint32(model.ArrayLen(a.Left))
	a.Left = nil
	j := t.EditJob(id)
	if j.ExitCode = max(j.ExitCode, 1); j.EndReason == 0 {
		j.EndReason = reason
	}
}
