package command

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// jobKey is a job, or an element of an array.
type jobKey struct {
	id      uint64
	element bool
	index   uint32
}

// note remembers which of the jobs asked for by number were found.
func (q *queueLister) note(j *fettlev1.Job) {
	if !named(q.req.GetSelect()) {
		return
	}
	if q.seen == nil {
		q.seen = make(map[jobKey]bool)
	}
	q.seen[jobKey{id: j.GetId()}] = true
	if array := j.GetArrayJobId(); array != 0 {
		q.seen[jobKey{array, true, j.GetArrayIndex()}] = true
	}
}

// missing refuses jobs that were asked for by number alone and not found.
func (q *queueLister) missing() error {
	s := q.req.GetSelect()
	if len(s.GetUsers())+len(s.GetStates())+len(s.GetNames())+len(s.GetPartitions())+len(s.GetProjects())+len(s.GetNodes()) > 0 {
		return nil
	}
	var out gres.Jobs
	n := 0
	for _, id := range s.GetIds() {
		if !q.seen[jobKey{id: id}] {
			out.IDs = append(out.IDs, id)
			n++
		}
	}
	for _, e := range s.GetElements() {
		var gone []uint32
		model.ArrayEach(e.GetRanges(), func(i uint32) bool {
			if !q.seen[jobKey{e.GetJobId(), true, i}] {
				gone = append(gone, i)
			}
			return true
		})
		if n += len(gone); len(gone) > 0 {
			out.Elements = append(out.Elements, gres.Elements{Job: e.GetJobId(), Ranges: gres.RangesOf(gone)})
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("no such %s: %s; it was never submitted, or was forgotten after its retention", jobWord(n), out)
}
