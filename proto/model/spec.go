package model

import (
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// Defaults of a specification.
const (
	DefaultRetries    = 2
	DefaultKillGraceS = 30
	// MethodScript is the method of plain batch scripts; every other method names a launcher.
	MethodScript = "script"
	// DefaultPartition is the one partition of a cluster whose policy defines none: all nodes, no limits.
	DefaultPartition = "main"
)

// NormalizeSpec fills the defaults that do not depend on the cluster's policy, in place: priority 5, one node (unless GPUs
// are asked for in all), one CPU, two retries, 30 s of grace, method script, name from the method. Types, constraints and
// arrays get their plain form. Doing it twice changes nothing more.
func NormalizeSpec(s *fettlev1.JobSpec) {
	if s == nil {
		return
	}
	s.Method = strings.ToLower(s.Method)
	if s.Method == "" {
		s.Method = MethodScript
	}
	if s.Name == "" {
		s.Name = s.Method
	}
	if s.Priority == 0 {
		s.Priority = DefaultPriority
	}
	if g := s.GpusTotal; g.GetCount() == 0 && g.GetType() == "" {
		s.GpusTotal = nil
	}
	if s.Nodes == 0 && s.GpusTotal == nil {
		s.Nodes = 1
	}
	if s.CpusPerNode == 0 {
		s.CpusPerNode = 1
	}
	if s.Retries == nil {
		n := uint32(DefaultRetries)
		s.Retries = &n
	}
	if s.KillGraceS == 0 {
		s.KillGraceS = DefaultKillGraceS
	}
	if s.GpusPerNode != nil {
		if s.GpusPerNode.Count == 0 && s.GpusPerNode.Type == "" {
			s.GpusPerNode = nil
		} else {
			s.GpusPerNode.Type = strings.ToLower(s.GpusPerNode.Type)
		}
	}
	for _, g := range append(s.GpuAlternatives, s.GpusTotal) {
		if g != nil {
			g.Type = strings.ToLower(g.Type)
		}
	}
	if c, err := gres.ParseConstraint(s.Constraint); err == nil {
		s.Constraint = c.String()
	}
	normalizeArray(s.Array)
}

// GPUs returns how many GPUs of which type s asks of each node.
func GPUs(s *fettlev1.JobSpec) (count uint32, gpuType string) {
	return s.GetGpusPerNode().GetCount(), s.GetGpusPerNode().GetType()
}

// Retries returns how many transient failures s forgives.
func Retries(s *fettlev1.JobSpec) uint32 {
	if s == nil || s.Retries == nil {
		return DefaultRetries
	}
	return s.GetRetries()
}
