package api

import (
	"math"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// JobView decodes encoded jobs into one and the same Job, again and again, without allocating. Read are all plain fields
// of Job; of its spec all but the nodelists, devices, environment, script, arguments, config and overrides; the newest
// attempt with its nodes' names, GPUs and exit statuses; and the progress. The rest is left empty. Strings point into the bytes that were
// decoded. The zero value is ready for use.
type JobView struct {
	job          fettlev1.Job
	spec         fettlev1.JobSpec
	gpus, total  fettlev1.GPURequest
	alternatives pool[fettlev1.GPURequest]
	array, left  arrayView
	depends      dependView
	waits        dependView
	counts       fettlev1.ArrayCounts
	attempt      fettlev1.Attempt
	attempts     [1]*fettlev1.Attempt
	progress     fettlev1.Progress
	nodes        pool[fettlev1.NodeAllocation]
	exits        pool[fettlev1.Exit]
	retries      uint32
	floats       [3]float64
}

// pool lends messages of a repeated field, again and again the same ones.
type pool[T any] struct {
	all  []*T
	used int
}

// next is one more message; what it held before is still in it.
func (p *pool[T]) next() *T {
	if p.used == len(p.all) {
		p.all = append(p.all, new(T))
	}
	p.used++
	return p.all[p.used-1]
}

// lent are the messages since used was last set to 0; nil when there are none.
func (p *pool[T]) lent() []*T {
	if p.used == 0 {
		return nil
	}
	return p.all[:p.used:p.used]
}

// arrayView holds an array's element numbers.
type arrayView struct {
	spec   fettlev1.ArraySpec
	ranges pool[fettlev1.ArrayRange]
}

// dependView holds a list of dependencies.
type dependView struct {
	list    pool[fettlev1.Dependency]
	indexes []*uint32
}

// Decode reads a job. What it returned before is overwritten.
func (v *JobView) Decode(b []byte) (*fettlev1.Job, error) {
	j := &v.job
	clearJob(j)
	v.waits.list.used = 0
	err := eachField(b, func(num protowire.Number, val uint64, raw []byte) error {
		switch num {
		case 1:
			j.Id = val
		case 2:
			j.Spec = &v.spec
			return v.decodeSpec(raw)
		case 3:
			j.User = text(raw)
		case 4:
			j.Uid = uint32(val)
		case 5:
			j.Gid = uint32(val)
		case 6:
			j.State = fettlev1.JobState(val)
		case 7:
			j.Reason = fettlev1.Reason(val)
		case 8:
			j.Detail = text(raw)
		case 9:
			j.SubmitMs = int64(val)
		case 10:
			j.EligibleMs = int64(val)
		case 11:
			j.StartMs = int64(val)
		case 12:
			j.EndMs = int64(val)
		case 13:
			v.attempts[0] = &v.attempt
			j.Attempts = v.attempts[:]
			return v.decodeAttempt(raw)
		case 14:
			j.Attempt = uint32(val)
		case 15:
			j.Failures = uint32(val)
		case 16:
			j.Held = val != 0
		case 17:
			j.CancelRequested = val != 0
		case 18:
			j.ExitCode = int32(val)
		case 19:
			j.Progress = &v.progress
			return v.decodeProgress(raw)
		case 20:
			j.RequestId = text(raw)
		case 21:
			j.ModifiedIndex = val
		case 22:
			j.ArrayJobId = val
		case 23:
			j.ArrayIndex = uint32(val)
		case 24:
			j.ArrayLeft = &v.left.spec
			return v.left.decode(raw)
		case 25:
			j.PreemptedCount = uint32(val)
		case 26:
			j.PredictedStartMs = int64(val)
		case 27:
			j.ArrayCounts = &v.counts
			return v.decodeCounts(raw)
		case 28:
			return v.waits.decode(raw)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	j.WaitingFor = v.waits.list.lent()
	return j, nil
}

// clearJob empties the fields that Decode sets.
func clearJob(j *fettlev1.Job) {
	j.Id, j.Spec, j.User, j.Uid, j.Gid, j.State, j.Reason, j.Detail = 0, nil, "", 0, 0, 0, 0, ""
	j.SubmitMs, j.EligibleMs, j.StartMs, j.EndMs, j.Attempts, j.Attempt, j.Failures = 0, 0, 0, 0, nil, 0, 0
	j.Held, j.CancelRequested, j.ExitCode, j.Progress, j.RequestId, j.ModifiedIndex = false, false, 0, nil, "", 0
	j.ArrayJobId, j.ArrayIndex, j.ArrayLeft, j.PreemptedCount, j.PredictedStartMs, j.ArrayCounts, j.WaitingFor = 0, 0, nil, 0, 0, nil, nil
}

func (v *JobView) decodeSpec(b []byte) error {
	s := &v.spec
	s.Name, s.Method, s.Priority, s.Partition, s.Project, s.Comment = "", "", 0, "", "", ""
	s.Nodes, s.GpusPerNode, s.CpusPerNode, s.MemMibPerNode, s.TimeLimitS, s.BeginMs = 0, nil, 0, 0, 0, 0
	s.Hold, s.NoRequeue, s.Retries, s.KillGraceS, s.WorkDir, s.StdoutPath, s.StderrPath = false, false, nil, 0, "", "", ""
	s.TruncateOutput, s.ConfigPath = false, ""
	s.GpuAlternatives, s.GpusTotal, s.VramMib, s.Exclusive, s.Constraint, s.Array, s.Dependencies = nil, nil, 0, false, "", nil, nil
	s.DependencyAny, s.DeadlineMs, s.Preempt, s.NoPreemptible, s.Reservation, s.EstimatedRunS = false, 0, false, false, "", 0
	v.alternatives.used, v.depends.list.used = 0, 0
	err := eachField(b, func(num protowire.Number, val uint64, raw []byte) error {
		switch num {
		case 1:
			s.Name = text(raw)
		case 2:
			s.Method = text(raw)
		case 3:
			s.Priority = uint32(val)
		case 4:
			s.Partition = text(raw)
		case 5:
			s.Project = text(raw)
		case 6:
			s.Comment = text(raw)
		case 10:
			s.Nodes = uint32(val)
		case 11:
			s.GpusPerNode = &v.gpus
			return decodeGPUs(&v.gpus, raw)
		case 12:
			s.CpusPerNode = uint32(val)
		case 13:
			s.MemMibPerNode = int64(val)
		case 18:
			return decodeGPUs(v.alternatives.next(), raw)
		case 19:
			s.GpusTotal = &v.total
			return decodeGPUs(&v.total, raw)
		case 20:
			s.TimeLimitS = int64(val)
		case 21:
			s.BeginMs = int64(val)
		case 22:
			s.Hold = val != 0
		case 23:
			s.NoRequeue = val != 0
		case 24:
			v.retries = uint32(val)
			s.Retries = &v.retries
		case 25:
			s.KillGraceS = int64(val)
		case 30:
			s.WorkDir = text(raw)
		case 31:
			s.StdoutPath = text(raw)
		case 32:
			s.StderrPath = text(raw)
		case 33:
			s.TruncateOutput = val != 0
		case 43:
			s.ConfigPath = text(raw)
		case 45:
			s.VramMib = int64(val)
		case 46:
			s.Exclusive = val != 0
		case 47:
			s.Constraint = text(raw)
		case 48:
			s.Array = &v.array.spec
			return v.array.decode(raw)
		case 49:
			return v.depends.decode(raw)
		case 50:
			s.DependencyAny = val != 0
		case 51:
			s.DeadlineMs = int64(val)
		case 52:
			s.Preempt = val != 0
		case 53:
			s.NoPreemptible = val != 0
		case 54:
			s.Reservation = text(raw)
		case 55:
			s.EstimatedRunS = int64(val)
		}
		return nil
	})
	s.GpuAlternatives, s.Dependencies = v.alternatives.lent(), v.depends.list.lent()
	return err
}

func decodeGPUs(g *fettlev1.GPURequest, b []byte) error {
	g.Type, g.Count = "", 0
	return eachField(b, func(num protowire.Number, val uint64, raw []byte) error {
		switch num {
		case 1:
			g.Type = text(raw)
		case 2:
			g.Count = uint32(val)
		}
		return nil
	})
}

func (v *arrayView) decode(b []byte) error {
	v.spec.MaxRunning, v.ranges.used = 0, 0
	err := eachField(b, func(num protowire.Number, val uint64, raw []byte) error {
		switch num {
		case 1:
			r := v.ranges.next()
			r.First, r.Last, r.Step = 0, 0, 0
			return eachField(raw, func(num protowire.Number, val uint64, _ []byte) error {
				switch num {
				case 1:
					r.First = uint32(val)
				case 2:
					r.Last = uint32(val)
				case 3:
					r.Step = uint32(val)
				}
				return nil
			})
		case 2:
			v.spec.MaxRunning = uint32(val)
		}
		return nil
	})
	v.spec.Ranges = v.ranges.lent()
	return err
}

// decode reads one more dependency.
func (v *dependView) decode(b []byte) error {
	d := v.list.next()
	d.Kind, d.JobId, d.Index = 0, 0, nil
	for len(v.indexes) < v.list.used {
		v.indexes = append(v.indexes, new(uint32))
	}
	index := v.indexes[v.list.used-1]
	return eachField(b, func(num protowire.Number, val uint64, _ []byte) error {
		switch num {
		case 1:
			d.Kind = fettlev1.DependencyKind(val)
		case 2:
			d.JobId = val
		case 3:
			*index = uint32(val)
			d.Index = index
		}
		return nil
	})
}

func (v *JobView) decodeCounts(b []byte) error {
	c := &v.counts
	c.Pending, c.Active, c.Completed, c.Failed, c.Cancelled = 0, 0, 0, 0, 0
	return eachField(b, func(num protowire.Number, val uint64, _ []byte) error {
		switch num {
		case 1:
			c.Pending = uint32(val)
		case 2:
			c.Active = uint32(val)
		case 3:
			c.Completed = uint32(val)
		case 4:
			c.Failed = uint32(val)
		case 5:
			c.Cancelled = uint32(val)
		}
		return nil
	})
}

func (v *JobView) decodeAttempt(b []byte) error {
	a := &v.attempt
	a.Number, a.Fence, a.DispatchMs, a.StartMs, a.EndMs, a.Outcome, a.Reason, a.Detail = 0, 0, 0, 0, 0, 0, 0, ""
	a.PreemptedBy, a.LostGpuS = 0, 0
	v.nodes.used, v.exits.used = 0, 0
	err := eachField(b, func(num protowire.Number, val uint64, raw []byte) error {
		switch num {
		case 1:
			a.Number = uint32(val)
		case 2:
			a.Fence = val
		case 3:
			a.DispatchMs = int64(val)
		case 4:
			a.StartMs = int64(val)
		case 5:
			a.EndMs = int64(val)
		case 6:
			n := v.nodes.next()
			n.Node, n.GpuUuids, n.VramMib, n.Exit = "", n.GpuUuids[:0], 0, nil
			return eachField(raw, func(num protowire.Number, val uint64, raw []byte) error {
				switch num {
				case 1:
					n.Node = text(raw)
				case 2:
					n.GpuUuids = append(n.GpuUuids, text(raw))
				case 5:
					n.Exit = v.exits.next()
					return decodeExit(n.Exit, raw)
				case 8:
					n.VramMib = int64(val)
				}
				return nil
			})
		case 7:
			a.Outcome = fettlev1.JobState(val)
		case 8:
			a.Reason = fettlev1.Reason(val)
		case 9:
			a.Detail = text(raw)
		case 20:
			a.PreemptedBy = val
		case 21:
			a.LostGpuS = int64(val)
		}
		return nil
	})
	a.Nodes = v.nodes.lent()
	return err
}

// decodeExit reads what a process left, and why there may be no such thing.
func decodeExit(e *fettlev1.Exit, b []byte) error {
	e.Code, e.Signal, e.NeverStarted, e.NodeLost = 0, 0, false, false
	return eachField(b, func(num protowire.Number, val uint64, _ []byte) error {
		switch num {
		case 1:
			e.Code = int32(val)
		case 2:
			e.Signal = int32(val)
		case 3:
			e.NeverStarted = val != 0
		case 13:
			e.NodeLost = val != 0
		}
		return nil
	})
}

func (v *JobView) decodeProgress(b []byte) error {
	p := &v.progress
	p.Step, p.TotalSteps, p.Loss, p.LearningRate, p.Epoch, p.RemainingS, p.UpdatedMs, p.Attempt = 0, 0, nil, nil, nil, 0, 0, 0
	return eachField(b, func(num protowire.Number, val uint64, _ []byte) error {
		switch num {
		case 1:
			p.Step = int64(val)
		case 2:
			p.TotalSteps = int64(val)
		case 3, 4, 5:
			f := &v.floats[num-3]
			*f = math.Float64frombits(val)
			switch num {
			case 3:
				p.Loss = f
			case 4:
				p.LearningRate = f
			case 5:
				p.Epoch = f
			}
		case 6:
			p.RemainingS = int64(val)
		case 7:
			p.UpdatedMs = int64(val)
		case 8:
			p.Attempt = uint32(val)
		}
		return nil
	})
}

// eachField calls f with every field of a message: numbers in val, anything with a length in raw.
func eachField(b []byte, f func(num protowire.Number, val uint64, raw []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var val uint64
		var raw []byte
		switch typ {
		case protowire.VarintType:
			val, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			val, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			raw, n = protowire.ConsumeBytes(b)
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(num, val, raw); err != nil {
			return err
		}
	}
	return nil
}

// text makes a string of bytes that nobody changes, without a copy.
func text(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return unsafe.String(&b[0], len(b))
}
