package leader

import (
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/policy"
	"github.com/fettle-hpc/fettle/proto/model"
)

// accountsFor is how long accounts serve before they are worked out again, in milliseconds.
const accountsFor = 60_000

// usageStep is how finely usage is told, in parts of policy.One: smaller changes reorder nothing.
const usageStep = policy.One / 1024

type accountKey struct{ project, user string }

// accounts are who has used how much of what they are due, as the scheduling policy sees it: the ledger, decayed, and what
// runs now.
type accounts struct {
	madeMS int64
	snap   *state.Snapshot
	// users are GPU-seconds by user and project, projects those of a project with all below it, direct those without; members
	// is how many users of a project have used something.
	users                     map[accountKey]uint64
	projects, direct, members map[string]uint64
	known                     map[accountKey]*policy.Account
}

func newAccounts(snap *state.Snapshot, nowMS int64) *accounts {
	a := &accounts{
		madeMS: nowMS, snap: snap, users: map[accountKey]uint64{}, projects: map[string]uint64{}, direct: map[string]uint64{}, members: map[string]uint64{},
		known: map[accountKey]*policy.Account{},
	}
	half := snap.HalfLifeMS()
	for u := range snap.Usages {
		a.add(accountKey{u.Project, u.User}, u.At(nowMS, half)/1000)
	}
	for j := range snap.Active {
		at := j.Current()
		for _, part := range at.GetNodes() {
			if held := nowMS - at.GetDispatchMs(); held > 0 && part.GetExit() == nil {
				a.add(accountKey{j.Account(), j.User}, uint64(held/1000)*uint64(max(state.GPUMilli(part), 0))/1000)
			}
		}
	}
	return a
}

func (a *accounts) add(k accountKey, gpuS uint64) {
	if gpuS == 0 {
		return
	}
	if a.users[k] == 0 {
		a.members[k.project]++
	}
	a.users[k] += gpuS
	a.direct[k.project] += gpuS
	for _, p := range a.chain(k.project) {
		a.projects[p] += gpuS
	}
}

// chain is a project and those above it, nearest first. One that the policy does not have stands for itself.
func (a *accounts) chain(project string) []string {
	if p := a.snap.Project(project); p != nil {
		return p.Chain()
	}
	return []string{project}
}

// of is a user in a project. The value is shared and never changed.
func (a *accounts) of(j *state.Job) *policy.Account {
	k := accountKey{j.Account(), j.User}
	if acc, ok := a.known[k]; ok {
		return acc
	}
	acc := a.make(k)
	a.known[k] = acc
	return acc
}

func (a *accounts) make(k accountKey) *policy.Account {
	acc := &policy.Account{}
	for _, name := range slices.Backward(a.chain(k.project)) {
		if p := a.snap.Project(name); p != nil {
			used, weights := a.siblings(p)
			acc.Levels = append(acc.Levels, policy.Level{Name: name, Usage: stepped(a.projects[name], used), Share: policy.Due(uint64(model.Weight(p.Project)), weights)})
		}
	}
	n := a.members[k.project]
	if a.users[k] == 0 {
		n++
	}
	acc.Levels = append(acc.Levels, policy.Level{Name: k.user, Usage: stepped(a.users[k], a.direct[k.project]), Share: policy.Due(1, n)})
	return acc
}

// siblings sums up the projects beside one, itself among them.
func (a *accounts) siblings(p *state.Project) (used, weights uint64) {
	for _, q := range a.snap.Policy().GetProjects() {
		if q.GetParent() == p.GetParent() {
			used += a.projects[q.GetName()]
			weights += uint64(model.Weight(q))
		}
	}
	return used, weights
}

func stepped(n, all uint64) uint32 {
	p := policy.Part(n, all)
	return p / usageStep * usageStep
}

// follow takes over the accounts of an earlier time that are still true, and names the others.
func (a *accounts) follow(old *accounts) map[accountKey]bool {
	changed := map[accountKey]bool{}
	for k, was := range old.known {
		if is := a.make(k); slices.Equal(is.Levels, was.Levels) {
			a.known[k] = was
		} else {
			a.known[k], changed[k] = is, true
		}
	}
	return changed
}
