package locallog

import (
	"context"
	"errors"
	"testing"

	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func term(n uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: n, LeaderId: "a"}}}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	l := New("c")
	failure := errors.New("no quorum")
	for _, tc := range []struct {
		name string
		hook Hook
		term uint64
		want error
		kept bool
	}{
		{"committed", nil, 1, nil, true},
		{"not committed", func(*raftlogv1.Entry) (bool, error) { return false, failure }, 2, failure, false},
		{"committed, the answer lost", func(*raftlogv1.Entry) (bool, error) { return true, failure }, 3, failure, true},
		{"committed after a look", func(*raftlogv1.Entry) (bool, error) { return false, nil }, 4, nil, true},
	} {
		l.OnPropose(tc.hook)
		before := l.Store().Snapshot().Index()
		_, err := l.Propose(t.Context(), term(tc.term))
		if !errors.Is(err, tc.want) || (l.Store().Snapshot().Term() == tc.term) != tc.kept || (l.Store().Snapshot().Index() > before) != tc.kept {
			t.Errorf("%s: %v, term %d", tc.name, err, l.Store().Snapshot().Term())
		}
	}
	if _, err := l.ForNodes().Propose(t.Context(), term(1)); err == nil {
		t.Error("a refusal of the state machine is no error for nodes")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Propose(over, term(9)); !errors.Is(err, context.Canceled) || l.Store().Snapshot().Term() == 9 {
		t.Errorf("after the end of its context: %v", err)
	}
}
