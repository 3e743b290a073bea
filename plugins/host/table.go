package host

import (
	"errors"
	"fmt"

	"github.com/fettle-hpc/fettle/plugins/policy"
)

// table is every waiting job, in columns that can be sent as they are.
type table struct {
	jobs policy.Columns
	// place of a job in the columns.
	place map[uint64]int
	// removed by the last delta, without what was not there.
	removed []uint64
	// broken says that only a full delta makes it whole again; so it begins.
	broken bool
	begun  bool
}

// apply brings the table up to date. After an error it is of no use until a full delta.
func (t *table) apply(d Delta) error {
	if err := d.Changed.Check(); err != nil {
		return err
	}
	if d.Full {
		return t.fill(d)
	}
	if t.broken || !t.begun {
		return errors.New("not full, though the first one and one after an error have to be")
	}
	t.removed = t.removed[:0]
	for _, id := range d.Removed {
		if i, ok := t.place[id]; ok {
			t.removeAt(i)
			t.removed = append(t.removed, id)
		}
	}
	seen := make(map[uint64]struct{}, d.Changed.Len())
	for i, id := range d.Changed.ID {
		if _, twice := seen[id]; twice || id == 0 {
			return badID(id, twice)
		}
		seen[id] = struct{}{}
		if at, ok := t.place[id]; ok {
			t.jobs.Set(at, d.Changed.At(i))
			continue
		}
		t.place[id] = t.jobs.Len()
		t.jobs.Append(d.Changed.At(i))
	}
	for _, id := range d.Removed {
		if _, both := seen[id]; both {
			return fmt.Errorf("job %d is both changed and removed", id)
		}
	}
	return nil
}

func badID(id uint64, twice bool) error {
	if twice {
		return fmt.Errorf("job %d comes twice", id)
	}
	return fmt.Errorf("job number %d", id)
}

func (t *table) fill(d Delta) error {
	if len(d.Removed) > 0 {
		return fmt.Errorf("full, and yet %d jobs are removed", len(d.Removed))
	}
	t.jobs.Reset()
	t.removed = t.removed[:0]
	t.place = make(map[uint64]int, d.Changed.Len())
	for i, id := range d.Changed.ID {
		if _, twice := t.place[id]; twice || id == 0 {
			return badID(id, twice)
		}
		t.place[id] = i
	}
	t.jobs.AppendAll(&d.Changed)
	t.begun, t.broken = true, false
	return nil
}

// removeAt moves the last job into the gap.
func (t *table) removeAt(i int) {
	c, last := &t.jobs, t.jobs.Len()-1
	delete(t.place, c.ID[i])
	if i != last {
		c.Set(i, c.At(last))
		t.place[c.ID[i]] = i
	}
	c.Truncate(last)
}

// ids is a copy of the jobs' numbers in the order of the columns.
func (t *table) ids() []uint64 { return append([]uint64(nil), t.jobs.ID...) }
