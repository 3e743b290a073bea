package api

import (
	"context"

	"google.golang.org/grpc"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// ReadLog implements fettle.v1.ControllerService. Nodes are connected to the leader, so it is served there.
func (s *Server) ReadLog(req *fettlev1.ReadLogRequest, stream grpc.ServerStreamingServer[fettlev1.ReadLogResponse]) error {
	actor, leader, fwd, err := s.toLeader(stream.Context())
	if err != nil {
		return err
	}
	if leader != nil {
		up, err := leader.ReadLog(fwd, req)
		if err != nil {
			return err
		}
		return relay(up.Recv, stream.Send)
	}
	if err := checkRange(req); err != nil {
		return err
	}
	leave, err := s.streams.enter(actor.GetUid())
	if err != nil {
		return err
	}
	defer leave()
	j, err := s.awaitRow(stream.Context(), actor, req)
	if err != nil {
		return s.toStatus(err)
	}
	if req.GetAttempt() > j.Attempt {
		return refuse(model.NotFound, "attempt", "job "+idText(j.ID)+" has had "+idText(uint64(j.Attempt))+" attempts", "leave the attempt out for the newest")
	}
	read := logRange{number: req.GetAttempt(), offset: req.GetOffset(), tail: req.GetTailBytes()}
	for {
		if j, err = s.awaitAttempt(stream.Context(), req, read.number); err != nil {
			return s.toStatus(err)
		}
		at := attemptOf(j, read.number, req.GetFollow())
		if at == nil {
			if read.number > 0 && read.number <= j.Attempt {
				return refuse(model.NotFound, "attempt", "attempt "+idText(uint64(read.number))+" of job "+idText(j.ID)+" is no longer on record", "leave the attempt out for the newest")
			}
			break
		}
		if err := s.relayAttempt(stream, req, j, at, read); err != nil {
			return s.toStatus(err)
		}
		if !req.GetFollow() {
			break
		}
		// What comes after it is read whole.
		read = logRange{number: at.GetNumber() + 1}
	}
	snap := s.cfg.Store.Snapshot()
	if j = snap.Job(req.GetJobId()); j != nil && j.Finished() {
		return stream.Send(&fettlev1.ReadLogResponse{Attempt: j.Attempt, Job: s.row(stream.Context(), j, false)})
	}
	return nil
}

// awaitRow finds the job whose output is asked for, and puts the number of its row into the request. An element that has not
// started has neither row nor output yet: when following, its start is waited for.
func (s *Server) awaitRow(ctx context.Context, actor *raftlogv1.Actor, req *fettlev1.ReadLogRequest) (*state.Job, error) {
	sub := s.cfg.Store.Subscribe(1)
	defer sub.Close()
	for {
		name := nameOf(req.GetJobId(), req.ArrayIndex)
		j := oneJob(s.cfg.Store.Snapshot(), req.GetJobId(), req.ArrayIndex)
		switch {
		case j == nil || (!actor.GetAdmin() && actor.GetUid() != j.UID):
			return nil, refuse(model.NotFound, "job", "no such job of yours: "+name, "fqueue --all lists your jobs")
		case j.IsArray():
			return nil, refuse(model.Invalid, "job", name+" is an array, whose elements write each for itself", "name one of them, such as "+gres.FormatElement(j.ID, j.Spec.GetArray().GetRanges()[0].GetFirst()))
		case !j.IsElement() || j.ID != j.ArrayJobID:
			req.JobId, req.ArrayIndex = j.ID, nil
			return j, nil
		case !req.GetFollow():
			return nil, refuse(model.Conflict, "job", name+" has not started", "follow it to wait for its output")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-sub.C():
		}
	}
}

// logRange is what to read next: an attempt, 0 for the newest, and which part of its output.
type logRange struct {
	number       uint32
	offset, tail int64
}

// maxTail bounds the end of an output that can be asked for.
const maxTail = 1 << 20

func checkRange(req *fettlev1.ReadLogRequest) error {
	switch {
	case req.GetTailBytes() < 0 || req.GetTailBytes() > maxTail:
		return refuse(model.Invalid, "tail", "is not from 0 to 1 MiB", "leave it out to read everything")
	case req.GetOffset() < 0:
		return refuse(model.Invalid, "offset", "is negative", "count bytes from 0")
	case req.GetOffset() > 0 && req.GetTailBytes() > 0:
		return refuse(model.Invalid, "offset", "does not go with a tail", "leave one of them out")
	}
	return nil
}

// awaitAttempt waits, when following, until the attempt exists or the job has ended without it.
func (s *Server) awaitAttempt(ctx context.Context, req *fettlev1.ReadLogRequest, number uint32) (*state.Job, error) {
	sub := s.cfg.Store.Subscribe(1)
	defer sub.Close()
	for {
		j := s.cfg.Store.Snapshot().Job(req.GetJobId())
		if j == nil {
			return nil, refuse(model.NotFound, "job", "job "+idText(req.GetJobId())+" was purged", "")
		}
		if at := attemptOf(j, number, req.GetFollow()); !req.GetFollow() || j.Finished() || (at != nil && anyStarted(at)) {
			return j, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-sub.C():
		}
	}
}

func anyStarted(at *fettlev1.Attempt) bool {
	for _, a := range at.GetNodes() {
		if a.GetStarted() || a.GetExit() != nil {
			return true
		}
	}
	return false
}

// attemptOf returns the numbered attempt, the newest for 0, or nil. With orLater set, one that is no longer on record is
// passed over for the next that is.
func attemptOf(j *state.Job, number uint32, orLater bool) *fettlev1.Attempt {
	if number == 0 {
		return j.Current()
	}
	for _, at := range j.Attempts {
		if at.GetNumber() == number || (orLater && at.GetNumber() > number) {
			return at
		}
	}
	return nil
}

func (s *Server) relayAttempt(stream grpc.ServerStreamingServer[fettlev1.ReadLogResponse], req *fettlev1.ReadLogRequest, j *state.Job, at *fettlev1.Attempt, read logRange) error {
	alloc := at.GetNodes()[0]
	for _, a := range at.GetNodes() {
		if req.GetNode() != "" && a.GetNode() == req.GetNode() {
			alloc = a
		}
	}
	if req.GetNode() != "" && alloc.GetNode() != req.GetNode() {
		return refuse(model.NotFound, "node", "attempt "+idText(uint64(at.GetNumber()))+" did not run on "+req.GetNode(), "")
	}
	if alloc.GetExit().GetNeverStarted() {
		return nil
	}
	pattern := j.Spec.GetStdoutPath()
	if req.GetStderr() {
		if pattern = j.Spec.GetStderrPath(); pattern == "" {
			return refuse(model.NotFound, "stderr", "the job writes stderr together with stdout", "leave --stderr out")
		}
	}
	// A node that has forgotten the attempt is told the very file that it wrote.
	key := nodemachine.Key{Job: j.ID, Attempt: at.GetNumber(), Fence: at.GetFence()}
	start := alloc.GetExit().GetStdoutStart()
	if req.GetStderr() {
		start = alloc.GetExit().GetStderrStart()
	}
	path := nodemachine.OutputFile(pattern, j.Spec, nodemachine.OutputNames{
		Key: key, ArrayJob: j.ArrayJobID, ArrayIndex: j.ArrayIndex, User: j.User, FirstNode: at.GetNodes()[0].GetNode(),
	})
	return s.cfg.Nodes.ReadLog(stream.Context(), alloc.GetNode(), &fettlev1.ReadNodeLog{
		Key:    key.Proto(),
		Follow: req.GetFollow(), Stderr: req.GetStderr(), TailBytes: read.tail, Offset: read.offset,
		Path: path, Start: start, Uid: j.UID, Gid: j.GID, User: j.User,
	}, func(c *fettlev1.PushLogRequest) error {
		if len(c.GetData()) == 0 {
			return nil
		}
		return stream.Send(&fettlev1.ReadLogResponse{Attempt: at.GetNumber(), Data: c.GetData(), Offset: c.GetOffset()})
	})
}
