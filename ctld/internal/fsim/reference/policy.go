package reference

import (
	"fmt"
	"math"
	"strings"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// Policies are the names that ParsePolicy knows.
var Policies = []string{"fifo", "greedy", "easy-exact", "easy-limit", "sjf", "sjf-easy", "vst48-limit", "srsf"}

type mode int

const (
	// strict stops at the first job that does not fit.
	strict mode = iota
	// greedy tries every job in order.
	greedy
	// easy reserves for the first job that does not fit and starts later ones that cannot delay it.
	easy
	// srsf gives the GPUs anew at every event to the jobs with the least service left, at no cost.
	srsf
)

// Policy is an order and what may be started out of it.
type Policy struct {
	Name string
	mode mode
	// key orders waiting jobs, the lowest first.
	key func(*trace.Job) float64
	// estimate is how long a job is expected to run, in seconds; it is what backfill counts on.
	estimate func(*trace.Job) int64
}

// ParsePolicy finds a policy by its name.
func ParsePolicy(name string) (Policy, error) {
	submit := func(j *trace.Job) float64 { return float64(j.SubmitS) }
	duration := func(j *trace.Job) float64 { return float64(j.DurationS) }
	exact := func(j *trace.Job) int64 { return j.DurationS }
	switch name {
	case "fifo":
		return Policy{name, strict, submit, exact}, nil
	case "greedy":
		return Policy{name, greedy, submit, exact}, nil
	case "easy-exact":
		return Policy{name, easy, submit, exact}, nil
	case "easy-limit":
		return Policy{name, easy, submit, limit}, nil
	case "sjf":
		return Policy{name, strict, duration, exact}, nil
	case "sjf-easy":
		return Policy{name, easy, duration, exact}, nil
	case "vst48-limit":
		return Policy{name, easy, func(j *trace.Job) float64 { return virtualSubmit(j, 48*3600) }, limit}, nil
	case "srsf":
		return Policy{name, srsf, submit, exact}, nil
	}
	return Policy{}, fmt.Errorf("%q: unknown; use one of %s", name, strings.Join(Policies, ", "))
}

// limit is the job's own limit, else the synthetic one.
func limit(j *trace.Job) int64 {
	if j.LimitS > 0 {
		return j.LimitS
	}
	return trace.SyntheticLimit(j.Row, j.DurationS)
}

// Bounds of a job's area in GPU-seconds for the size bonus.
const (
	minArea = 60.0
	maxArea = 1e7
)

// virtualSubmit is the submit time less what being small is worth, at most window, all in seconds.
func virtualSubmit(j *trace.Job, window float64) float64 {
	area := min(max(float64(j.GPUs)*float64(limit(j)), minArea), maxArea)
	return float64(j.SubmitS) - window*math.Log(maxArea/area)/math.Log(maxArea/minArea)
}
