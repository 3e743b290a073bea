package replay

import (
	"math"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
	"github.com/fettle-hpc/fettle/plugins/policy"
)

// How usage fades, and how often fair share is worked out anew, in seconds.
const (
	halfLifeS   = 7 * 24 * 3600
	shareEveryS = 600
)

// account is a project with equal claims, and what it used.
type account struct {
	name string
	// gpuS are GPU-seconds, faded to the time of the usage.
	gpuS   float64
	shares *policy.Account
}

// usage is what the projects used.
type usage struct {
	accounts map[string]*account
	names    []string
	at, next int64
}

func newUsage(jobs []trace.Job) *usage {
	u := &usage{accounts: map[string]*account{}}
	for i := range jobs {
		u.of(&jobs[i])
	}
	slices.Sort(u.names)
	return u
}

func (u *usage) of(j *trace.Job) *account {
	name := j.Project()
	a, ok := u.accounts[name]
	if !ok {
		a = &account{name: name}
		u.accounts[name] = a
		u.names = append(u.names, name)
	}
	return a
}

// due reports whether fair share is to be worked out anew. With one project there is nobody to share with.
func (u *usage) due(nowS int64) bool { return len(u.names) > 1 && nowS >= u.next }

// charge counts a run that ends, from the last settling on.
func (u *usage) charge(j *job, nowS int64) {
	j.account.gpuS += float64(j.GPUs) * float64(max(0, nowS-max(j.startS, u.at)))
}

// settle fades what was used and works out everybody's part, with what runs.
func (u *usage) settle(nowS int64, running []*job) {
	for _, j := range running {
		u.charge(j, nowS)
	}
	fade := math.Exp2(-float64(nowS-u.at) / halfLifeS)
	u.at, u.next = nowS, nowS+shareEveryS
	var all uint64
	for _, a := range u.accounts {
		a.gpuS *= fade
		all += uint64(a.gpuS)
	}
	due := policy.Due(1, uint64(len(u.names)))
	for _, name := range u.names {
		a := u.accounts[name]
		a.shares = &policy.Account{Levels: []policy.Level{{Name: name, Usage: policy.Part(uint64(a.gpuS), all), Share: due}}}
	}
}
