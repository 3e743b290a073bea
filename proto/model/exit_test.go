package model

import (
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestHasExitStatus(t *testing.T) {
	t.Parallel()
	attempt := func(outcome fettlev1.JobState, reason fettlev1.Reason, exits ...*fettlev1.Exit) *fettlev1.Attempt {
		a := &fettlev1.Attempt{Outcome: outcome, Reason: reason}
		for _, e := range exits {
			a.Nodes = append(a.Nodes, &fettlev1.NodeAllocation{Exit: e})
		}
		return a
	}
	never := &fettlev1.Exit{Code: -1, NeverStarted: true}
	for name, tt := range map[string]struct {
		state    fettlev1.JobState
		attempts []*fettlev1.Attempt
		want     bool
	}{
		"completed":                         {Completed, []*fettlev1.Attempt{attempt(Completed, 0, &fettlev1.Exit{})}, true},
		"killed":                            {Cancelled, []*fettlev1.Attempt{attempt(Cancelled, 0, &fettlev1.Exit{Code: -1, Signal: 15})}, true},
		"a gang of which one ran":           {Failed, []*fettlev1.Attempt{attempt(Failed, 0, never, &fettlev1.Exit{Code: 3})}, true},
		"runs":                              {Running, []*fettlev1.Attempt{attempt(0, 0, nil)}, false},
		"cancelled while it waited":         {Cancelled, nil, false},
		"cancelled before its second try":   {Cancelled, []*fettlev1.Attempt{attempt(Failed, 0, &fettlev1.Exit{Code: 3})}, false},
		"cancelled after a requeue":         {Cancelled, []*fettlev1.Attempt{attempt(Cancelled, fettlev1.Reason_REASON_REQUEUED_BY_USER, &fettlev1.Exit{Signal: 15})}, false},
		"its output could not be opened":    {Failed, []*fettlev1.Attempt{attempt(Failed, 0, never)}, false},
		"lost with its node":                {NodeFail, []*fettlev1.Attempt{attempt(NodeFail, 0, &fettlev1.Exit{Code: -1, NodeLost: true})}, false},
		"ran in the second of two attempts": {Completed, []*fettlev1.Attempt{attempt(NodeFail, 0, never), attempt(Completed, 0, &fettlev1.Exit{})}, true},
	} {
		if got := HasExitStatus(&fettlev1.Job{State: tt.state, Attempts: tt.attempts}); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
