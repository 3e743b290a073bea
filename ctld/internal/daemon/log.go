package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// logWriter puts entries into the replicated log.
type logWriter struct {
	raft *raftstore.Store
	now  func() time.Time
}

// Propose stamps an entry with the time and this controller, if nobody else is named, and waits for its result.
func (w *logWriter) Propose(ctx context.Context, e *raftlogv1.Entry) (*fsm.Result, error) {
	e.NowMs = w.now().UnixMilli()
	if e.GetActor() == nil {
		e.Actor = &raftlogv1.Actor{System: true}
	}
	data, err := fsm.Encode(e)
	if err != nil {
		return nil, err
	}
	resp, index, err := w.raft.Apply(ctx, data)
	if err != nil {
		return nil, err
	}
	res, ok := resp.(*fsm.Result)
	if !ok {
		return nil, fmt.Errorf("entry %d: unexpected result %T", index, resp)
	}
	return res, nil
}

// nodeProposer narrows a logWriter to what node sessions need.
type nodeProposer struct{ log *logWriter }

func (p nodeProposer) Propose(ctx context.Context, e *raftlogv1.Entry) (uint64, error) {
	res, err := p.log.Propose(ctx, e)
	if err != nil {
		return 0, err
	}
	if res.Err != nil {
		return 0, res.Err
	}
	return res.Index, nil
}
