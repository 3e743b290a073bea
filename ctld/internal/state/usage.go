package state

import (
	"cmp"
	"math"
	"math/bits"

	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Usage is what a user has used in a project: a row of the ledger, immutable.
type Usage struct {
	Project, User string
	// GPUMS is GPU-milliseconds as they counted at UpdatedMS of the log's clock.
	GPUMS     uint64
	UpdatedMS int64

	sum sum
}

func lessUsage(a, b *Usage) bool {
	if c := cmp.Compare(a.Project, b.Project); c != 0 {
		return c < 0
	}
	return a.User < b.User
}

// lessUpdated orders rows by age; the oldest are forgotten first.
func lessUpdated(a, b *Usage) bool {
	if a.UpdatedMS != b.UpdatedMS {
		return a.UpdatedMS < b.UpdatedMS
	}
	return lessUsage(a, b)
}

// At is the usage in GPU-milliseconds as it counts at nowMS, which halves it every halfLifeMS.
func (u *Usage) At(nowMS, halfLifeMS int64) uint64 {
	v, _ := decay(u.GPUMS, nowMS-u.UpdatedMS, halfLifeMS)
	return v
}

// halves are 2^(-1/2), 2^(-1/4), 2^(-1/8), …, 2^(-1/2^20) in units of 2^-64.
var halves = [decayBits]uint64{
	0xb504f333f9de6484, 0xd744fccad69d6af4, 0xeac0c6e7dd24392e, 0xf5257d152486cc2c,
	0xfa83b2db722a033a, 0xfd3e0c0cf486c174, 0xfe9e115c7b8f884b, 0xff4ecb59511ec8a5,
	0xffa756521c8daed1, 0xffd3a751c0f7e10b, 0xffe9d2b2f7db2755, 0xfff4e91bff1b8c3d,
	0xfffa747ea0040664, 0xfffd3a3b7814eb53, 0xfffe9d1cc60ddab1, 0xffff4e8e25879bfa,
	0xffffa7470363f451, 0xffffd3a37dda0313, 0xffffe9d1bdf703ae, 0xfffff4e8debe025e,
}

// decayBits is how finely a half life is divided: steps of 2^-20 of it.
const decayBits = 20

// decay halves v for every halfLifeMS in dtMS, in whole steps of 2^-20 of a half life and in integers only, so that every
// replica gets the same. used is the time that the steps stand for: what is left of dtMS has to be counted next time.
func decay(v uint64, dtMS, halfLifeMS int64) (after uint64, used int64) {
	if dtMS <= 0 || halfLifeMS <= 0 {
		return v, 0
	}
	whole := dtMS / halfLifeMS
	if whole >= 64 {
		return 0, dtMS
	}
	v >>= uint(whole)
	steps := uint64(dtMS%halfLifeMS) << decayBits / uint64(halfLifeMS)
	for i, c := range halves {
		if steps&(1<<(decayBits-1-i)) != 0 {
			v, _ = bits.Mul64(v, c)
		}
	}
	return v, whole*halfLifeMS + int64(steps*uint64(halfLifeMS)>>decayBits)
}

// charged returns the row after another ms GPU-milliseconds at nowMS.
func (u *Usage) charged(ms uint64, nowMS, halfLifeMS int64) *Usage {
	v, used := decay(u.GPUMS, nowMS-u.UpdatedMS, halfLifeMS)
	if v > math.MaxUint64-ms {
		v = math.MaxUint64 - ms
	}
	return &Usage{Project: u.Project, User: u.User, GPUMS: v + ms, UpdatedMS: u.UpdatedMS + used}
}

func (u *Usage) record() *raftlogv1.UsageRecord {
	return &raftlogv1.UsageRecord{Project: u.Project, User: u.User, GpuMs: u.GPUMS, UpdatedMs: u.UpdatedMS}
}

func hashUsage(buf *canon, u *Usage) sum {
	c := append((*buf)[:0], tagUsage)
	c.s(u.Project)
	c.s(u.User)
	c.u(u.GPUMS)
	c.i(u.UpdatedMS)
	*buf = c
	return c.sum()
}

func (t *tables) setUsage(buf *canon, u *Usage) {
	if old, ok := t.usage.w.Get(u); ok {
		t.dropUsage(old)
	}
	u.sum = hashUsage(buf, u)
	t.total.add(u.sum)
	t.usage.put(u)
	t.usageOrder.put(u)
	for t.usage.w.Len() > model.MaxUsageRows {
		oldest, _ := t.usageOrder.w.Min()
		t.dropUsage(oldest)
	}
}

func (t *tables) dropUsage(u *Usage) {
	t.total.sub(u.sum)
	t.usage.del(u)
	t.usageOrder.del(u)
}

// Usages yields the ledger by project and user, both ascending.
func (s *Snapshot) Usages(yield func(*Usage) bool) { s.usage.Ascend(yield) }

// UsageOf returns what is known of a user in a project, nil when nothing is.
func (s *Snapshot) UsageOf(project, user string) *Usage {
	u, _ := s.usage.Get(&Usage{Project: project, User: user})
	return u
}

// HalfLifeMS is after how many milliseconds usage counts half.
func (s *Snapshot) HalfLifeMS() int64 { return model.HalfLifeMS(s.meta.policy.proto) }

// Charge books what a job held from fromMS to now, in thousandths of GPUs: to its user and project, and to those of its
// scopes that have a limit on GPU-hours.
func (t *Txn) Charge(j *Job, gpuMilli, fromMS int64) {
	now := t.NowMS()
	if gpuMilli <= 0 || fromMS >= now {
		return
	}
	u := t.usageOf(j.Account(), j.User)
	if u == nil {
		u = &Usage{Project: j.Account(), User: j.User, UpdatedMS: now}
	}
	t.setUsage(u.charged(uint64(gpuMilli*(now-fromMS)/1000), now, model.HalfLifeMS(t.Policy())))
	for _, b := range t.Bounds(j.Spec.GetPartition(), j.Account(), j.User) {
		if w := model.WindowMS(b.Limits); w > 0 {
			t.setSpend(t.spendOf(b.Scope).booked(gpuMilli, fromMS, now, w))
		}
	}
}

func (t *Txn) usageOf(project, user string) *Usage {
	for i := len(t.usage) - 1; i >= 0; i-- {
		if u := t.usage[i]; u.Project == project && u.User == user {
			return u
		}
	}
	u, _ := t.b.t.usage.w.Get(&Usage{Project: project, User: user})
	return u
}

// setUsage puts a row in place of one that this entry made for the same user and project, or beside them.
func (t *Txn) setUsage(u *Usage) {
	for i, old := range t.usage {
		if old.Project == u.Project && old.User == u.User {
			t.usage[i] = u
			return
		}
	}
	t.usage = append(t.usage, u)
}
