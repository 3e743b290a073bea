package api

import (
	"google.golang.org/grpc"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// eventsPerMessage is how many events travel in one message.
const eventsPerMessage = 1000

// WatchEvents implements fettle.v1.ControllerService. It serves from this controller's own copy, whoever leads.
func (s *Server) WatchEvents(req *fettlev1.WatchEventsRequest, stream grpc.ServerStreamingServer[fettlev1.WatchEventsResponse]) error {
	ctx := stream.Context()
	actor, _, err := s.cfg.Auth.Caller(ctx)
	if err != nil {
		return err
	}
	if err := checkSelector(req.GetSelect()); err != nil {
		return err
	}
	leave, err := s.streams.enter(actor.GetUid())
	if err != nil {
		return err
	}
	defer leave()
	// What the changes are is taken from the store; the subscription only tells when to look.
	sub := s.cfg.Store.Subscribe(1)
	defer sub.Close()
	if after := req.GetAfterIndex(); after > 0 {
		// An index from another controller may be ahead of this one's.
		if err := s.waitApplied(ctx, after); ctx.Err() != nil {
			return s.toStatus(ctx.Err())
		} else if err != nil {
			return s.resync(stream)
		}
	}
	snap := s.cfg.Store.Snapshot()
	after := req.GetAfterIndex()
	if after == 0 {
		after = snap.Index()
	}
	first := &fettlev1.WatchEventsResponse{Header: s.header(snap, fettlev1.ReadLevel_READ_LEVEL_STALE)}
	if err := stream.Send(first); err != nil {
		return err
	}
	match := newMatcher(req.GetSelect())
	for {
		events, ok := s.cfg.Store.EventsAfter(after)
		if !ok && after < s.cfg.Store.Snapshot().Index() {
			return s.resync(stream)
		}
		if n := len(events); n > 0 {
			after = events[n-1].GetIndex()
		}
		if err := sendEvents(stream, s.wanted(events, req.GetSelect(), match)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return s.toStatus(ctx.Err())
		case <-sub.C():
		}
	}
}

// resync tells a watcher to list again, and ends.
func (s *Server) resync(stream grpc.ServerStreamingServer[fettlev1.WatchEventsResponse]) error {
	return stream.Send(&fettlev1.WatchEventsResponse{Resync: true, Header: s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_STALE)})
}

func (s *Server) wanted(events []*fettlev1.Event, sel *fettlev1.JobSelector, match matcher) []*fettlev1.Event {
	if sel == nil {
		return events
	}
	snap := s.cfg.Store.Snapshot()
	named := watched(sel)
	// States of a selector mean the event's own, not the job's of now.
	byRow := matcher{sel: sel}
	var out []*fettlev1.Event
	for _, e := range events {
		j := snap.Job(e.GetJobId())
		if j == nil || !named(j) || (len(match.states) > 0 && !match.states[e.GetState()]) || !byRow.matches(j) {
			continue
		}
		out = append(out, e)
	}
	return out
}

func sendEvents(stream grpc.ServerStreamingServer[fettlev1.WatchEventsResponse], events []*fettlev1.Event) error {
	for len(events) > 0 {
		n := min(len(events), eventsPerMessage)
		if err := stream.Send(&fettlev1.WatchEventsResponse{Events: events[:n]}); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}
