package state

import (
	"cmp"
	"slices"

	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

const (
	// spendSlots is into how many slots a window is divided: what was used leaves the window slot by slot.
	spendSlots = 32
	// maxSpendSlots bounds the slots of a row, which may stem from windows of several sizes.
	maxSpendSlots = 8 * spendSlots
)

// Spend is what a scope with a limit on GPU-hours has used, by time. Immutable.
type Spend struct {
	Scope Scope
	// Slots by start, ascending; their messages are shared and must not be changed.
	Slots []*raftlogv1.SpendSlot

	sum sum
}

func lessSpend(a, b *Spend) bool { return CompareScopes(a.Scope, b.Scope) < 0 }

// Within is how many GPU-milliseconds were used in the window that ends at nowMS. A slot that is partly in it counts whole.
func (s *Spend) Within(nowMS, windowMS int64) int64 {
	if s == nil {
		return 0
	}
	n := int64(0)
	for _, slot := range s.Slots {
		if slot.GetEndMs() > nowMS-windowMS {
			n += slot.GetGpuMs()
		}
	}
	return n
}

// booked returns the row after gpuMilli thousandths of GPUs were held from fromMS to nowMS. What has left the window is
// forgotten.
func (s *Spend) booked(gpuMilli, fromMS, nowMS, windowMS int64) *Spend {
	out := &Spend{Scope: s.Scope}
	begin := nowMS - windowMS
	for _, slot := range s.Slots {
		if slot.GetEndMs() > begin {
			out.Slots = append(out.Slots, slot)
		}
	}
	width := max(windowMS/spendSlots, 1)
	for at := max(fromMS, begin); at < nowMS; {
		start := at - at%width
		end := start + width
		upTo := min(end, nowMS)
		out.add(start, end, gpuMilli*(upTo-at)/1000)
		at = upTo
	}
	if over := len(out.Slots) - maxSpendSlots; over > 0 {
		out.Slots = out.Slots[over:]
	}
	return out
}

func (s *Spend) add(start, end, gpuMS int64) {
	i, ok := slices.BinarySearchFunc(s.Slots, start, func(slot *raftlogv1.SpendSlot, start int64) int {
		if c := cmp.Compare(slot.GetStartMs(), start); c != 0 {
			return c
		}
		return cmp.Compare(slot.GetEndMs(), end)
	})
	slot := &raftlogv1.SpendSlot{StartMs: start, EndMs: end, GpuMs: gpuMS}
	if ok {
		slot.GpuMs += s.Slots[i].GetGpuMs()
		s.Slots[i] = slot
		return
	}
	s.Slots = slices.Insert(s.Slots, i, slot)
}

func (s *Spend) record() *raftlogv1.SpendRecord {
	return &raftlogv1.SpendRecord{Kind: s.Scope.Kind, Name: s.Scope.Name, Slots: s.Slots}
}

func hashSpend(buf *canon, s *Spend) sum {
	c := append((*buf)[:0], tagSpend)
	c.u(uint64(s.Scope.Kind))
	c.s(s.Scope.Name)
	c.u(uint64(len(s.Slots)))
	for _, slot := range s.Slots {
		c.i(slot.GetStartMs())
		c.i(slot.GetEndMs())
		c.i(slot.GetGpuMs())
	}
	*buf = c
	return c.sum()
}

func (t *tables) setSpend(buf *canon, s *Spend) {
	if old, ok := t.spend.w.Get(s); ok {
		t.total.sub(old.sum)
	}
	s.sum = hashSpend(buf, s)
	t.total.add(s.sum)
	t.spend.put(s)
}

// dropSpend forgets what scopes have used that no longer have a limit on it.
func (t *tables) dropSpend() {
	var gone []*Spend
	t.spend.w.Ascend(func(s *Spend) bool {
		if t.meta.policy.limitsOf(s.Scope).GetGpuHours() == 0 {
			gone = append(gone, s)
		}
		return true
	})
	for _, s := range gone {
		t.total.sub(s.sum)
		t.spend.del(s)
	}
}

// SpendOf returns what the scope has used, nil when nothing is known.
func (s *Snapshot) SpendOf(scope Scope) *Spend {
	r, _ := s.spend.Get(&Spend{Scope: scope})
	return r
}

// SpentWithin is how many GPU-milliseconds the scope has used in the window that ends now.
func (t *Txn) SpentWithin(scope Scope, windowMS int64) int64 {
	return t.spendOf(scope).Within(t.NowMS(), windowMS)
}

// spendOf returns the scope's row as this entry leaves it, never nil.
func (t *Txn) spendOf(scope Scope) *Spend {
	for _, s := range t.spend {
		if s.Scope == scope {
			return s
		}
	}
	if s, ok := t.b.t.spend.w.Get(&Spend{Scope: scope}); ok {
		return s
	}
	return &Spend{Scope: scope}
}

func (t *Txn) setSpend(s *Spend) {
	for i, old := range t.spend {
		if old.Scope == s.Scope {
			t.spend[i] = s
			return
		}
	}
	t.spend = append(t.spend, s)
}
