package state

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Project is a project of the policy with the way up from it.
type Project struct {
	*fettlev1.Project
	// chain is the project itself and those above it, nearest first.
	chain []string
	// members of it and of those above it.
	members  map[string]bool
	everyone bool
}

// Chain is the project itself and those above it, nearest first. Not to be changed.
func (p *Project) Chain() []string { return p.chain }

// Admits reports whether the user may submit to the project.
func (p *Project) Admits(user string) bool { return p.everyone || p.members[user] }

// compileProjects makes the projects of a policy, which model.ValidatePolicy has accepted, ready for look-ups.
func (c *policy) compileProjects(p *fettlev1.ClusterPolicy) {
	c.projects = make(map[string]*Project, len(p.GetProjects()))
	for _, q := range p.GetProjects() {
		c.projects[q.GetName()] = &Project{Project: q, members: make(map[string]bool)}
	}
	for _, q := range c.projects {
		for at := q; at != nil && len(q.chain) < model.MaxProjectDepth; at = c.projects[at.GetParent()] {
			q.chain = append(q.chain, at.GetName())
			for _, m := range at.GetMembers() {
				q.members[m] = true
				q.everyone = q.everyone || m == model.Everyone
			}
		}
	}
	c.users = make(map[string]*fettlev1.Limits, len(p.GetUsers()))
	for _, u := range p.GetUsers() {
		if u.GetUser() == model.Everyone {
			c.everyone = u.GetLimits()
		} else {
			c.users[u.GetUser()] = u.GetLimits()
		}
	}
}

// home is the project of a user's jobs that name none: the first that names the user, else the first that is everyone's;
// nil when there is none.
func (c *policy) home(user string) *Project {
	var open *Project
	for _, q := range c.proto.GetProjects() {
		if slices.Contains(q.GetMembers(), user) {
			return c.projects[q.GetName()]
		}
		if open == nil && slices.Contains(q.GetMembers(), model.Everyone) {
			open = c.projects[q.GetName()]
		}
	}
	return open
}

// Project returns the project of that name, nil when the policy has none.
func (s *Snapshot) Project(name string) *Project { return s.meta.policy.projects[name] }

// HomeProject returns the project of a user's jobs that name none, nil when there is none.
func (s *Snapshot) HomeProject(user string) *Project { return s.meta.policy.home(user) }

// Project returns the project of that name, nil when the policy has none.
func (t *Txn) Project(name string) *Project { return t.compiled().projects[name] }

// HomeProject returns the project of a user's jobs that name none, nil when there is none.
func (t *Txn) HomeProject(user string) *Project { return t.compiled().home(user) }
