package model

import (
	"strconv"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// MaxReservation bounds a reservation's name in bytes, MaxVRAMMiB a share of one GPU's memory: 16 TiB. MaxFeatures bounds what
// a node may declare.
const (
	MaxReservation = 64
	MaxVRAMMiB     = 16 << 20
	MaxFeatures    = 256
)

// GPUChoices returns what would do on each node, the preferred first; nil when the job asks for no GPUs, or for GPUs in all.
func GPUChoices(s *fettlev1.JobSpec) []*fettlev1.GPURequest {
	if s.GetGpusPerNode().GetCount() == 0 {
		return nil
	}
	return append([]*fettlev1.GPURequest{s.GetGpusPerNode()}, s.GetGpuAlternatives()...)
}

// LatestStartMS is the last moment at which a job with a deadline may start, so that its time limit ends by then; Unix
// milliseconds. ok is false for a job without a deadline.
func LatestStartMS(s *fettlev1.JobSpec) (ms int64, ok bool) {
	if s.GetDeadlineMs() == 0 {
		return 0, false
	}
	return s.GetDeadlineMs() - s.GetTimeLimitS()*1000, true
}

// checkWishes checks what a job may ask for beside plain resources.
func checkWishes(s *fettlev1.JobSpec) *FieldError {
	for _, check := range []func(*fettlev1.JobSpec) *FieldError{checkAlternatives, checkTotal, checkShare, checkConstraint, checkDeadline} {
		if err := check(s); err != nil {
			return err
		}
	}
	return checkWord("reservation", s.GetReservation(), MaxReservation)
}

func checkAlternatives(s *fettlev1.JobSpec) *FieldError {
	alts := s.GetGpuAlternatives()
	switch {
	case len(alts) == 0:
		return nil
	case len(alts) >= gres.MaxAlternatives:
		return invalid("gpus", "has more than "+strconv.Itoa(gres.MaxAlternatives)+" alternatives", "name fewer")
	case s.GetGpusPerNode().GetCount() == 0:
		return invalid("gpus", "has alternatives to no GPUs", "name the preferred one first")
	case len(s.GetDeviceIndexes())+len(s.GetDeviceUuids()) > 0:
		return invalid("device", "does not go with alternatives", "pin GPUs of one request only")
	}
	seen := map[[2]string]bool{}
	for _, g := range GPUChoices(s) {
		n := strconv.FormatUint(uint64(g.GetCount()), 10)
		k := [2]string{strings.ToLower(g.GetType()), n}
		switch {
		case g.GetCount() == 0:
			return invalid("gpus", "has an alternative without GPUs", "give each a number")
		case g.GetCount() > MaxGPUsPerNode:
			return invalid("gpus", "has an alternative above "+strconv.Itoa(MaxGPUsPerNode)+" per node", "spread the job over more nodes")
		case seen[k]:
			return invalid("gpus", "names an alternative twice", "name each once")
		}
		seen[k] = true
		if err := checkWord("gpus", g.GetType(), gres.MaxTypeLen); err != nil {
			return err
		}
	}
	return nil
}

func checkTotal(s *fettlev1.JobSpec) *FieldError {
	g := s.GetGpusTotal()
	if g == nil || g.GetCount() == 0 && g.GetType() == "" {
		return nil
	}
	n := "(" + strconv.FormatUint(uint64(g.GetCount()), 10) + " in all) "
	switch {
	case g.GetCount() == 0:
		return invalid("gpus", "names the type "+quote(g.GetType())+" but no number", "write "+g.GetType()+":1, or leave the type out")
	case g.GetCount() > gres.MaxGPUsPerJob:
		return invalid("gpus", "is above "+strconv.Itoa(gres.MaxGPUsPerJob)+" in all", "ask for fewer GPUs")
	case s.GetGpusPerNode().GetCount() > 0 || len(s.GetGpuAlternatives()) > 0:
		return invalid("gpus", n+"does not go with GPUs per node", "use one or the other")
	case s.GetNodes() > 0:
		return invalid("nodes", "does not go with GPUs in all", "leave it out, or ask for GPUs per node")
	case len(s.GetDeviceIndexes())+len(s.GetDeviceUuids()) > 0:
		return invalid("device", "does not go with GPUs in all", "ask for GPUs per node")
	}
	return checkWord("gpus", g.GetType(), gres.MaxTypeLen)
}

func checkShare(s *fettlev1.JobSpec) *FieldError {
	switch v := s.GetVramMib(); {
	case v == 0:
		return nil
	case v < 0:
		return invalid("vram", "is negative", "use a size such as 20G")
	case v > MaxVRAMMiB:
		return invalid("vram", "is above 16 TiB", "ask for less memory")
	case s.GetGpusPerNode().GetCount() == 0 && s.GetGpusTotal().GetCount() == 0:
		return invalid("vram", "is asked of no GPU", "ask for GPUs too, for example one")
	case s.GetExclusive():
		return invalid("vram", "does not go with exclusive", "an exclusive job has its GPUs whole; leave one of them out")
	}
	return nil
}

func checkConstraint(s *fettlev1.JobSpec) *FieldError {
	_, err := gres.ParseConstraint(s.GetConstraint())
	return fromGres("constraint", err)
}

func checkDeadline(s *fettlev1.JobSpec) *FieldError {
	d := s.GetDeadlineMs()
	switch {
	case d == 0:
	case d < 0 || d > MaxBeginMS:
		return invalid("deadline", "is out of range", "use a time such as now+8hours")
	case s.GetBeginMs() >= d:
		return invalid("deadline", "is not after the begin time", "use a later deadline or an earlier begin")
	case s.GetTimeLimitS() > 0 && s.GetBeginMs() > d-s.GetTimeLimitS()*1000:
		return invalid("deadline", "comes before the time limit from the begin time on is over", "use a later deadline or a shorter limit")
	}
	if e := s.GetEstimatedRunS(); e < 0 || e > MaxBeginMS/1000 {
		return invalid("estimated_run_s", "is out of range", "leave it out")
	}
	return nil
}
