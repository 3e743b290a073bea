package state

import (
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Partition is a partition of the policy with its nodes expanded.
type Partition struct {
	*fettlev1.Partition
	all   bool
	nodes gres.HostSet
}

// Allows reports whether jobs of the partition may run on the node.
func (p *Partition) Allows(node string) bool { return p.all || p.nodes.Contains(node) }

// policy is a cluster policy made ready for look-ups.
type policy struct {
	proto      *fettlev1.ClusterPolicy
	partitions map[string]*Partition
	def        *Partition
	projects   map[string]*Project
	// users are limits by user, everyone those of users without any of their own.
	users    map[string]*fettlev1.Limits
	everyone *fettlev1.Limits
	sum      sum
}

// compilePolicy expands p, which model.ValidatePolicy has accepted. Without partitions there is one: model.DefaultPartition
// with every node and no limits.
func compilePolicy(p *fettlev1.ClusterPolicy) (*policy, *model.FieldError) {
	c := &policy{proto: p, partitions: make(map[string]*Partition, len(p.GetPartitions())+1)}
	c.compileProjects(p)
	if len(p.GetPartitions()) == 0 {
		c.def = &Partition{Partition: &fettlev1.Partition{Name: model.DefaultPartition, IsDefault: true}, all: true}
		c.partitions[model.DefaultPartition] = c.def
		return c, nil
	}
	for _, part := range p.GetPartitions() {
		q := &Partition{Partition: part, all: part.GetNodes() == ""}
		if !q.all {
			set, err := gres.ParseHostSet(part.GetNodes())
			if err != nil {
				return nil, &model.FieldError{Field: "partition " + part.GetName() + ".nodes", Problem: err.Error()}
			}
			q.nodes = set
		}
		c.partitions[part.GetName()] = q
		if part.GetIsDefault() {
			c.def = q
		}
	}
	return c, nil
}
