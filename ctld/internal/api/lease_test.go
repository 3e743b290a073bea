package api

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// A controller whose lease is not the leader's says so in its log, once.
func TestLeasesThatDiffer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	view, err := c.leader.client.GetLeaderView(c.ctx, &fettlev1.GetLeaderViewRequest{})
	if err != nil || view.GetNodeLeaseMs() != 540_000 {
		t.Fatalf("%v, %v", view, err)
	}
	var log bytes.Buffer
	s := NewServer(Config{NodeLeaseMS: 60_000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for _, ms := range []int64{0, 60_000, 540_000, 540_000, 540_000} {
		s.compareLease("c1", ms)
	}
	if n := strings.Count(log.String(), "node.lease differs"); n != 1 || !strings.Contains(log.String(), "leader=c1 own_ms=60000 leader_ms=540000") {
		t.Errorf("%s", log.String())
	}
}
