package api

import (
	"math"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// JobView decodes encoded jobs into one and the same Job, again and again, without allocating. Read are all plain fields
// of Job; of its spec all but the nodelists, devices, environment, script, arguments, config and overrides; the newest
// attempt with the names of its nodes; and the progress. The rest is left empty. Strings point into the bytes that were
// decoded. The zero value is ready for use.
type JobView struct {
	job      fettlev1.Job
	spec     fettlev1.JobSpec
	gpus     fettlev1.GPURequest
	attempt  fettlev1.Attempt
	attempts [1]*fettlev1.Attempt
	progress fettlev1.Progress
	nodes    []*fettlev1.NodeAllocation
	retries  uint32
	floats   [3]float64
}

// Decode reads a job. What it returned before is overwritten.
func (v *JobView) Decode(b []byte) (*fettlev1.Job, error) {
	j := &v.job
	clearJob(j)
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
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// clearJob empties the fields that Decode sets.
func clearJob(j *fettlev1.Job) {
	j.Id, j.Spec, j.User, j.Uid, j.Gid, j.State, j.Reason, j.Detail = 0, nil, "", 0, 0, 0, 0, ""
	j.SubmitMs, j.EligibleMs, j.StartMs, j.EndMs, j.Attempts, j.Attempt, j.Failures = 0, 0, 0, 0, nil, 0, 0
	j.Held, j.CancelRequested, j.ExitCode, j.Progress, j.RequestId, j.ModifiedIndex = false, false, 0, nil, "", 0
}

func (v *JobView) decodeSpec(b []byte) error {
	s := &v.spec
	s.Name, s.Method, s.Priority, s.Partition, s.Project, s.Comment = "", "", 0, "", "", ""
	s.Nodes, s.GpusPerNode, s.CpusPerNode, s.MemMibPerNode, s.TimeLimitS, s.BeginMs = 0, nil, 0, 0, 0, 0
	s.Hold, s.NoRequeue, s.Retries, s.KillGraceS, s.WorkDir, s.StdoutPath, s.StderrPath = false, false, nil, 0, "", "", ""
	s.TruncateOutput, s.ConfigPath = false, ""
	return eachField(b, func(num protowire.Number, val uint64, raw []byte) error {
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
			v.gpus.Type, v.gpus.Count = "", 0
			return eachField(raw, func(num protowire.Number, val uint64, raw []byte) error {
				switch num {
				case 1:
					v.gpus.Type = text(raw)
				case 2:
					v.gpus.Count = uint32(val)
				}
				return nil
			})
		case 12:
			s.CpusPerNode = uint32(val)
		case 13:
			s.MemMibPerNode = int64(val)
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
		}
		return nil
	})
}

func (v *JobView) decodeAttempt(b []byte) error {
	a := &v.attempt
	a.Number, a.Fence, a.DispatchMs, a.StartMs, a.EndMs, a.Outcome, a.Reason, a.Detail = 0, 0, 0, 0, 0, 0, 0, ""
	used := 0
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
			if used == len(v.nodes) {
				v.nodes = append(v.nodes, &fettlev1.NodeAllocation{})
			}
			n := v.nodes[used]
			used++
			n.Node = ""
			return eachField(raw, func(num protowire.Number, _ uint64, raw []byte) error {
				if num == 1 {
					n.Node = text(raw)
				}
				return nil
			})
		case 7:
			a.Outcome = fettlev1.JobState(val)
		case 8:
			a.Reason = fettlev1.Reason(val)
		case 9:
			a.Detail = text(raw)
		}
		return nil
	})
	a.Nodes = v.nodes[:used]
	return err
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
