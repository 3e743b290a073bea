package leader

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Retention says how long finished jobs stay in the job table.
type Retention struct {
	// MaxAge after the end; 0 means 90 days.
	MaxAge time.Duration
	// MaxJobs that are finished; 0 means 1,000,000.
	MaxJobs int
}

// Keeper does the slow housekeeping of a term: hash checkpoints and retention.
type Keeper struct {
	Store     *state.Store
	Log       Log
	Retention Retention
	// CheckpointEvery is the time between hash checkpoints; 0 means 30 s.
	CheckpointEvery time.Duration
	// Checkpoint returns the newest index and state hash that every replica notes, false when there is none yet.
	Checkpoint func() (index uint64, hash []byte, ok bool)
	Logger     *slog.Logger
	Now        func() time.Time
}

// Announce tells the log that this controller leads in term, and where it is reached: plans of other terms are refused
// from here on, and followers know where to send their clients.
func Announce(ctx context.Context, log Log, self *raftlogv1.ServerChange, term uint64) error {
	entries := []*raftlogv1.Entry{
		{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{
			Term: term, LeaderId: self.GetServerId(), LeaderName: self.GetName(), LeaderClientAddr: self.GetClientAddr(),
		}}},
		{Op: &raftlogv1.Entry_ServerChange{ServerChange: self}},
	}
	for _, e := range entries {
		res, err := log.Propose(ctx, e)
		if err != nil {
			return fmt.Errorf("announce term %d: %w", term, err)
		}
		// A refused address is no reason not to lead: clients that reach this controller are served.
		if res.Err != nil && e.GetNewTerm() != nil {
			return fmt.Errorf("announce term %d: %w", term, res.Err)
		}
	}
	return nil
}

// Lead keeps house for one term, until ctx ends.
func (k *Keeper) Lead(ctx context.Context) {
	every := k.CheckpointEvery
	if every == 0 {
		every = 30 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if index, hash, ok := k.Checkpoint(); ok && index > last {
			last = index
			k.propose(ctx, &raftlogv1.Entry{Op: &raftlogv1.Entry_HashCheckpoint{HashCheckpoint: &raftlogv1.HashCheckpoint{Index: index, Hash: hash}}})
		}
		k.purge(ctx)
	}
}

func (k *Keeper) propose(ctx context.Context, e *raftlogv1.Entry) bool {
	res, err := k.Log.Propose(ctx, e)
	switch {
	case err != nil && ctx.Err() == nil:
		k.Logger.Warn("housekeeping not committed", "err", err)
	case err == nil && res.Err != nil:
		k.Logger.Error("housekeeping refused", "err", res.Err.Error())
	}
	return err == nil && res.Err == nil
}

const (
	// maxPurge keeps one purge small, maxPurges a round of them: jobs may end by the hundred in a second.
	maxPurge  = model.MaxPurgePerEntry
	maxPurges = 100
	// maxYoung is how many finished jobs that are still kept are looked past for older ones behind them.
	maxYoung = 10_000
)

// purge forgets what is over the retention, in small entries.
func (k *Keeper) purge(ctx context.Context) {
	for range maxPurges {
		ids := k.expired()
		if len(ids) == 0 || !k.propose(ctx, &raftlogv1.Entry{Op: &raftlogv1.Entry_Purge{Purge: &raftlogv1.PurgeJobs{Ids: ids}}}) {
			return
		}
	}
}

// expired returns the oldest finished jobs that are over the retention, at most maxPurge of them. Jobs end roughly in the
// order of their ids, so it does not look at all of them.
func (k *Keeper) expired() []uint64 {
	maxAge, maxJobs := k.Retention.MaxAge, k.Retention.MaxJobs
	if maxAge == 0 {
		maxAge = 90 * 24 * time.Hour
	}
	if maxJobs == 0 {
		maxJobs = 1_000_000
	}
	snap := k.Store.Snapshot()
	counts := snap.Counts()
	over := counts.Finished() - maxJobs
	before := k.Now().Add(-maxAge).UnixMilli()
	var ids []uint64
	young := 0
	snap.Jobs(0, func(j *state.Job) bool {
		switch {
		case !model.Terminal(j.State):
		case j.EndMS >= before && len(ids) >= over:
			young++
		default:
			ids = append(ids, j.ID)
		}
		return len(ids) < maxPurge && young < maxYoung
	})
	return ids
}
