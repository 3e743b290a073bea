package api

import (
	"context"

	"google.golang.org/grpc"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
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
	j := s.cfg.Store.Snapshot().Job(req.GetJobId())
	if j == nil || (!actor.GetAdmin() && actor.GetUid() != j.UID) {
		return refuse(model.NotFound, "job", "no such job of yours: "+idText(req.GetJobId()), "fqueue --all lists your jobs")
	}
	if req.GetAttempt() > j.Attempt {
		return refuse(model.NotFound, "attempt", "job "+idText(j.ID)+" has had "+idText(uint64(j.Attempt))+" attempts", "leave the attempt out for the newest")
	}
	sub := s.cfg.Store.Subscribe(256)
	defer sub.Close()
	number := req.GetAttempt()
	for {
		if j, err = s.awaitAttempt(stream.Context(), sub, req, number); err != nil {
			return s.toStatus(err)
		}
		at := attemptOf(j, number)
		if at == nil {
			break
		}
		number = at.GetNumber()
		if err := s.relayAttempt(stream, req, j, at); err != nil {
			return s.toStatus(err)
		}
		if !req.GetFollow() || req.GetAttempt() != 0 {
			break
		}
		number++
	}
	snap := s.cfg.Store.Snapshot()
	if j = snap.Job(req.GetJobId()); j != nil && j.Finished() {
		return stream.Send(&fettlev1.ReadLogResponse{Attempt: j.Attempt, Job: s.row(stream.Context(), j, false)})
	}
	return nil
}

// defaultOutput is where a job writes that names no file; the node uses the same.
const defaultOutput = "fettle-%j.out"

// awaitAttempt waits, when following, until the attempt exists or the job has ended without it.
func (s *Server) awaitAttempt(ctx context.Context, sub *state.Subscription, req *fettlev1.ReadLogRequest, number uint32) (*state.Job, error) {
	for {
		j := s.cfg.Store.Snapshot().Job(req.GetJobId())
		if j == nil {
			return nil, refuse(model.NotFound, "job", "job "+idText(req.GetJobId())+" was purged", "")
		}
		if at := attemptOf(j, number); !req.GetFollow() || j.Finished() || (at != nil && anyStarted(at)) {
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

// attemptOf returns the numbered attempt, the newest for 0, or nil.
func attemptOf(j *state.Job, number uint32) *fettlev1.Attempt {
	if number == 0 {
		return j.Current()
	}
	for _, at := range j.Attempts {
		if at.GetNumber() == number {
			return at
		}
	}
	return nil
}

func (s *Server) relayAttempt(stream grpc.ServerStreamingServer[fettlev1.ReadLogResponse], req *fettlev1.ReadLogRequest, j *state.Job, at *fettlev1.Attempt) error {
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
	if pattern == "" {
		pattern = defaultOutput
	}
	if req.GetStderr() {
		if pattern = j.Spec.GetStderrPath(); pattern == "" {
			return refuse(model.NotFound, "stderr", "the job writes stderr together with stdout", "leave --stderr out")
		}
	}
	// A node that has forgotten the attempt is told the very file that it wrote.
	key := nodemachine.Key{Job: j.ID, Attempt: at.GetNumber(), Fence: at.GetFence()}
	path := nodemachine.OutputPath(pattern, j.Spec, key, j.User, at.GetNodes()[0].GetNode())
	return s.cfg.Nodes.ReadLog(stream.Context(), alloc.GetNode(), &fettlev1.ReadNodeLog{
		Key:    key.Proto(),
		Follow: req.GetFollow(), Stderr: req.GetStderr(), TailBytes: req.GetTailBytes(),
		Path: path, Uid: j.UID, Gid: j.GID, User: j.User,
	}, func(c *fettlev1.PushLogRequest) error {
		if len(c.GetData()) == 0 {
			return nil
		}
		return stream.Send(&fettlev1.ReadLogResponse{Attempt: at.GetNumber(), Data: c.GetData(), Offset: c.GetOffset()})
	})
}
