package sched

import (
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
	// MinRunS protects the first seconds of every attempt, 0: DefaultMinRunS. Budget is how often one job may be preempted, 0:
	// DefaultBudget. PriorityGap is by how many steps the beneficiary has to be more urgent; 0: its score alone decides.
	MinRunS     int64
	Budget      uint32
	PriorityGap uint32
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

// What holds where a partition says nothing.
const (
	DefaultMinRunS = 600
	DefaultBudget  = 8
)

// Project is a tenant. Limits hold for it together with everything below it.
type Project struct {
	Name, Parent string
	Limits       Limits
	// Guarantee is how many GPUs it gets back from those who borrowed them.
	Guarantee int
}

// Limits bound what runs at once. 0 is no bound.
type Limits struct {
	// GPUs and Jobs that run at once.
	GPUs, Jobs int
	// GPUMS are GPU-milliseconds in a window; SetUsage says how many are used up by what has ended.
	GPUMS int64
}

// Reservation keeps nodes or GPUs for somebody, or for nobody at all, over a time.
type Reservation struct {
	Name string
	// Unix milliseconds.
	StartMS, EndMS int64
	// Nodes that are kept, by name. Without nodes, GPUs cards of GPUType (empty: any) are, wherever they are.
	Nodes   []string
	GPUs    int
	GPUType string
	// Users and Projects whose jobs may ask for it. Nobody may use a reservation without either: a maintenance window.
	Users, Projects []string
}

// Admits reports whether a job of this user and project may run in the reservation.
func (r *Reservation) Admits(user, project string) bool {
	for _, u := range r.Users {
		if u == user {
			return true
		}
	}
	for _, p := range r.Projects {
		if p == project {
			return true
		}
	}
	return false
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
	// Depth is how many blocked jobs of a class of GPUs get a reservation; 0: 1, negative: none, and nothing behind a blocked
	// job of a class starts on the nodes that it could use.
	Depth int
	// TrustFor is how long a blocked job has waited when predictions of jobs without a limit no longer let them ahead of it;
	// 0: DefaultTrust.
	TrustFor time.Duration
	// NoWaits leaves out why jobs wait.
	NoWaits bool
	// Preemption rules. MaxLoss is the share of its run, in thousandths, that a victim may lose; 0: DefaultMaxLoss.
	MaxLoss int
	// PreemptFor is how many blocked jobs at most may ask for victims in one plan; 0: DefaultPreemptFor.
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
