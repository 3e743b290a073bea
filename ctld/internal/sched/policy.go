package sched

import (
	"slices"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Policy is what the cluster's policy says to the planner. Everything in it is by name; SetPolicy takes it whole.
type Policy struct {
	// Partitions by name. A job of a partition that is not here does not start.
	Partitions []Partition
	// Projects by name. A project that is not here has no limits of its own.
	Projects []Project
	// Users holds limits of single users; UserDefault those of everybody else.
	Users       map[string]Limits
	UserDefault Limits
	// Reservations of nodes or GPUs over a time.
	Reservations []Reservation
}

// Partition is a named set of nodes.
type Partition struct {
	Name string
	Down bool
	// Allows reports whether a node belongs to it; nil: every node does. It gives the same answer every time.
	Allows func(node string) bool
	Limits Limits
	// Preempt is what becomes of a victim; PreemptOff: there are none.
	Preempt PreemptMode
	// MinRunMS protects the first milliseconds of every attempt. Budget is how often one job may be preempted. PriorityGap is by
	// how many steps the beneficiary has to be more urgent; 0: its place in the queue alone decides. AllowNoPreemptible lets
	// jobs ask not to be preempted.
	MinRunMS           int64
	Budget             uint32
	PriorityGap        uint32
	AllowNoPreemptible bool
}

// PreemptMode says what becomes of a preempted job.
type PreemptMode uint8

// The modes: no preemption; save and requeue; requeue; end for good.
const (
	PreemptOff PreemptMode = iota
	PreemptCheckpoint
	PreemptRequeue
	PreemptCancel
)

// Project is a tenant. Limits hold for it together with everything below it.
type Project struct {
	Name, Parent string
	Limits       Limits
	// Guarantee is how many GPUs it gets back from those who borrowed them.
	Guarantee int
}

// Limits bound what the jobs of a partition, project or user hold and use. 0 is no bound.
type Limits struct {
	// GPUs and Jobs that run at once. A job that shares cards counts its part of their memory.
	GPUs, Jobs int
	// GPUMS are GPU-milliseconds within a window of WindowMS. What runs counts with all of its time limit; SetUsage says how
	// many are used up by what has ended.
	GPUMS, WindowMS int64
	// GPUsPerJob and NodesPerJob bound what one job gets.
	GPUsPerJob, NodesPerJob int
}

func (l *Limits) none() bool { return *l == Limits{} }

// Everyone in a reservation's list of users stands for all of them.
const Everyone = "*"

// Reservation keeps nodes or cards for somebody, or for nobody at all, over a time.
type Reservation struct {
	Name string
	// Unix milliseconds. EndMS 0: until it is taken away.
	StartMS, EndMS int64
	// Nodes that are kept, by name. Cards are kept by UUID, where only some of a node's are.
	Nodes []string
	Cards []*fettlev1.NodeAllocation
	// Users and Projects, with those below them, whose jobs may ask for it. Without either it is nobody's: a maintenance window.
	Users, Projects []string
}

// admits reports whether jobs of a user, in a project with this way up, may run in the reservation.
func (r *Reservation) admits(user string, chain []string) bool {
	return slices.Contains(r.Users, user) || slices.Contains(r.Users, Everyone) ||
		slices.ContainsFunc(chain, func(p string) bool { return slices.Contains(r.Projects, p) })
}

// end is when the reservation is over.
func (r *Reservation) end() int64 {
	if r.EndMS == 0 {
		return never
	}
	return r.EndMS
}

// Scope is whom usage and limits belong to.
type Scope struct {
	Kind ScopeKind
	Name string
}

// ScopeKind tells the kinds of owners of limits apart.
type ScopeKind uint8

// Limits belong to partitions, projects and users.
const (
	ScopePartition ScopeKind = iota + 1
	ScopeProject
	ScopeUser
)

// Options set the planner's habits. The zero value is the usual.
type Options struct {
	// MaxPlacements bounds a plan; 0: DefaultMaxPlacements, negative: no bound, nor one of bytes.
	MaxPlacements int
	// Depth is how many blocked jobs of a class of GPUs keep their place in time; 0: 1.
	Depth int
	// TrustFor is how long a blocked job has waited when predictions of jobs without a limit no longer let them ahead of it;
	// 0: DefaultTrust.
	TrustFor time.Duration
	// NoWaits leaves out why jobs wait.
	NoWaits bool
	// MaxLoss is the share of its run, in thousandths, that a victim may lose where it is asked to save; 0: DefaultMaxLoss.
	MaxLoss int
	// PreemptFor is how many blocked jobs at most may ask for victims in one plan; 0: DefaultPreemptFor, negative: none.
	PreemptFor int
}

// Defaults of Options.
const (
	DefaultTrust      = 48 * time.Hour
	DefaultMaxLoss    = 100
	DefaultPreemptFor = 8
)

// Wait says why a job did not start.
type Wait struct {
	Reason fettlev1.Reason
	Detail string
}
