package session

import (
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// maxQueued orders for one node; a node that far behind is cut off and told everything again when it comes back.
const maxQueued = 100_000

// sender is the outgoing half of one node's connection: an ordered queue that a slow node cannot make the loop wait on.
type sender struct {
	mu    sync.Mutex
	queue []*fettlev1.ControllerMessage
	wake  chan struct{}
	// done is closed when the leader ends the connection, for the reason in err.
	done chan struct{}
	err  error
	// gone is closed when the connection's handler has returned, whoever ended it.
	gone chan struct{}
}

func newSender() *sender {
	return &sender{wake: make(chan struct{}, 1), done: make(chan struct{}), gone: make(chan struct{})}
}

func (s *sender) push(m *fettlev1.ControllerMessage) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.queue = append(s.queue, m)
	over := len(s.queue) > maxQueued
	s.mu.Unlock()
	if over {
		s.close(codes.ResourceExhausted, "too far behind")
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sender) take() []*fettlev1.ControllerMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue
	s.queue = nil
	return q
}

// close ends the connection; the first reason counts.
func (s *sender) close(code codes.Code, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err, s.queue = status.Error(code, reason), nil
		close(s.done)
	}
}

func (s *sender) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// run sends until the connection ends.
func (s *sender) run(send func(*fettlev1.ControllerMessage) error) error {
	for {
		select {
		case <-s.gone:
			return nil
		case <-s.done:
			return nil
		case <-s.wake:
		}
		for _, m := range s.take() {
			if err := send(m); err != nil {
				return err
			}
		}
	}
}
